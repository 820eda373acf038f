"""axe-core on every tab of the console, light and dark, on a wide screen and on a phone."""

import re

import pytest

from tests.annotate_app.finished_rounds import add_finished_round
from tests.browser.axe import assert_accessible
from tests.storage.builders import judge

ITS_TABS = "() => gradio_config.components.filter((part) => part.type === 'tabitem').map((tab) => tab.props.label)"
# Gradio lays transparent elements over some of its own; the same colours are judged elsewhere on the page.
UNTOLD = re.compile("overlapped by another|partially overlaps other")
pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("theme", "width"),
    [
        ("light", 1440),
        ("dark", 390),
        pytest.param("dark", 1440, marks=pytest.mark.slow),
        pytest.param("light", 390, marks=pytest.mark.slow),
    ],
)
def test_every_tab_is_accessible(open_page, context, theme, width):
    add_finished_round(context)
    judge(context.store, "ann0")
    page = open_page("rosa", color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(open_page.url + "/console/")
    page.locator(".cards li").first.wait_for()
    wrong, names = [], page.evaluate(ITS_TABS)
    assert names[:3] == ["Overview", "Round", "Reports"]
    for name in names:
        open_tab(page, name)
        page.wait_for_timeout(700)  # tables and pictures arrive
        try:
            assert_accessible(page, without=("aria-prohibited-attr",))  # of Gradio's empty plots
        except AssertionError as error:
            wrong += [f"{name}: {line}" for line in str(error).splitlines() if not ("svelte" in line and UNTOLD.search(line))]
    assert not wrong, "\n".join(wrong)


def open_tab(page, name):
    """Tabs that a narrow page has no room for are listed behind its "…" button."""
    tab = page.get_by_role("tab", name=name)
    if tab.is_visible():
        return tab.click()
    page.locator(".overflow-menu > button").first.click()
    page.locator(".overflow-dropdown button", has_text=name).first.click()
