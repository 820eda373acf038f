"""Reading a round's report in the console: the head, the sections, the pictures, the file, and hostile text in it."""

import re

import pytest

from tests.annotate_app.finished_rounds import add_finished_round

pytestmark = pytest.mark.browser


@pytest.fixture
def expect():
    expect = pytest.importorskip("playwright.sync_api").expect
    expect.set_options(timeout=15_000)  # busy machines
    return expect


def open_reports(open_page, **options):
    page = open_page("rosa", **options)
    page.goto(open_page.url + "/console/")
    page.get_by_role("tab", name="Reports").click()
    return page


def test_before_the_first_round_the_tab_says_what_to_do(open_page, expect):
    page = open_reports(open_page)
    expect(page.get_by_text("Start a round in the tab Round")).to_be_visible()
    assert page.get_by_label("Report of").is_hidden()


def test_a_report_is_read_section_by_section(open_page, context, expect):
    add_finished_round(context)
    page = open_reports(open_page)
    expect(page.get_by_role("heading", name=re.compile("Round 1"))).to_be_visible()
    expect(page.get_by_text("Promote it.")).to_be_visible()
    page.get_by_role("link", name="Are preferences cyclic?").click()
    expect(page.get_by_role("heading", name="Are preferences cyclic?")).to_be_in_viewport()
    circle = page.get_by_role("img", name="Three responses that beat each other")
    expect(circle).to_be_visible()
    figure = page.locator("figure", has=circle)
    figure.get_by_text("The numbers").click()
    expect(figure.get_by_role("row", name="response 1 over response 2 80%")).to_be_visible()


def test_hostile_responses_stay_text(open_page, context, expect):
    add_finished_round(context)
    page = open_reports(open_page)
    expect(page.get_by_text("<script>alert(2)</script>").first).to_be_visible()
    assert page.locator("#report-host img, #report-host script").count() == 0  # CSS looks into the shadow root


def test_another_job_is_chosen_and_stays_chosen(open_page, context, expect):
    for number, status in ((1, "passed"), (2, "failed")):
        add_finished_round(context, number, status=status, reasons=["KL to the parent is 9.1 nats."] if number == 2 else [])
    page = open_reports(open_page)
    expect(page.get_by_text("No, a limit was left.")).to_be_visible()
    page.get_by_label("Report of").select_option("1")
    expect(page.get_by_text("Yes, its limits hold.")).to_be_visible()
    page.get_by_role("tab", name="Round").click()
    add_finished_round(context, 3)
    page.get_by_role("tab", name="Reports").click()
    expect(page.get_by_label("Report of").locator("option")).to_have_count(3)
    expect(page.get_by_label("Report of")).to_have_value("1")


def test_the_downloaded_file_reads_the_same_without_an_app(open_page, context, expect, chromium, tmp_path):
    add_finished_round(context)
    page = open_reports(open_page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as a file").click()
    assert download.value.suggested_filename == "round-1-report.html"
    path = tmp_path / "report.html"
    download.value.save_as(path)
    shown = page.locator("#report-host .report").inner_text()
    colours = {}
    for theme in ("light", "dark"):
        window = chromium.new_context(offline=True, color_scheme=theme, java_script_enabled=theme == "dark")
        alone = window.new_page()
        asked = []
        alone.on("request", lambda request, asked=asked: asked.append(request.url))
        alone.goto(path.as_uri())
        assert alone.locator("main").inner_text() == shown
        colours[theme] = alone.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert asked == [path.as_uri()]
        alone.emulate_media(media="print")
        assert alone.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
        expect(alone.locator("details table").first).to_be_visible()  # paper cannot be clicked
        window.close()
    assert colours == {"light": "rgb(245, 245, 242)", "dark": "rgb(20, 21, 26)"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_fits_a_phone(open_page, context, expect, theme):
    add_finished_round(context)
    page = open_reports(open_page, color_scheme=theme, viewport={"width": 390, "height": 844})
    expect(page.get_by_text("Did it help?")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".summary").bounding_box()
    assert box and box["width"] >= 390 - 2 * 24  # the width is used: it was 270 once
