"""Signing in, choosing a password and the account page in a real Chromium; every one of the small pages is accessible."""

import pytest

from annotate_app.auth import issue_signin_link
from annotate_app.passwords import set_password
from tests.browser.axe import assert_accessible

PASSWORD = "correct horse battery"
pytestmark = pytest.mark.browser


@pytest.fixture
def expect():
    expect = pytest.importorskip("playwright.sync_api").expect
    expect.set_options(timeout=15_000)
    return expect


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390)])
def test_the_small_pages_are_accessible(chromium, url, context, theme, width):
    root = context.store.get_user("root")
    set_password(context.store, root, PASSWORD, actor="root")
    window = chromium.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    page = window.new_page()
    for path in ("/sign-in", issue_signin_link(context.store, root)):
        page.goto(url + path)
        assert_accessible(page)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(url + "/")
    for path in ("/account", "/sign-in", "/sign-out", "/console/audit"):
        page.goto(url + path)
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the page"
    window.close()


def test_a_password_chosen_with_the_invitation_signs_in_again_and_is_changed(chromium, url, context, expect):
    window = chromium.new_context()
    page = window.new_page()
    page.goto(url + issue_signin_link(context.store, context.store.get_user("ada")))
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(url + "/")
    page.goto(url + "/sign-out")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Name").fill("Ada")
    page.get_by_label("Password").fill("not it at all")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(url + "/")
    page.goto(url + "/account")
    page.get_by_label("Password now").fill(PASSWORD)
    page.get_by_label("New password").fill("another good one")
    page.get_by_label("The same again").fill("another good one")
    page.get_by_role("button", name="Change the password").click()
    expect(page.locator(".done")).to_contain_text("The password is changed")
    window.close()
