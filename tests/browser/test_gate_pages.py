"""How people compare policies, in a real Chromium: the campaign's fields and the lineage page."""

import pytest

from storage.campaign import build_campaign
from storage.records import JudgmentInput
from tests.annotate_app.finished_rounds import add_finished_round
from tests.browser.axe import assert_accessible
from tests.storage.builders import make_prompt, make_response

pytestmark = pytest.mark.browser
LOOKS = [("light", 1440), ("dark", 390)]


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def compared(context):
    """People have voted nine to one for policy 1 over policy 0."""
    store = context.store
    store.append_event(actor="system", kind="policy.promoted", subject="policy0")
    round_ = add_finished_round(context)
    store.add_prompts([make_prompt(f"h{k}", split="heldout") for k in range(12)])
    store.add_responses(
        [make_response(f"p{n}-h{k}", f"h{k}", policy_id=f"policy{n}", role="gate") for n in (0, 1) for k in range(12)]
    )
    store.set_campaign(build_campaign({"gate_share": 0.9}), actor="rosa")
    context.rounds.compare(round_.new_policy_id)
    gate = [pair for pair in store.lease("ann0", 20) if pair.purpose == "gate"][:10]
    for k, pair in enumerate(gate):
        verdict = "a" if pair.response_a_id.startswith("p1-") == (k > 0) else "b"
        store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id="ann0")


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_votes_and_expectations_stand_apart_on_the_lineage_page(compared, open_page, expect, theme, width):
    page = open_page("rosa", color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(f"{open_page.url}/console/lineage")
    people = page.locator("section", has=page.get_by_role("heading", name="What people prefer"))
    expect(people).to_contain_text("win rate 0.90")
    expect(people).to_contain_text("9 wins, 0 ties, 1 losses; 2 pairs wait in the queue")
    expect(people.get_by_role("table", name="Policies ranked by votes")).to_be_visible()
    expected = page.locator("section", has=page.get_by_role("heading", name="What preference models expect"))
    expect(expected).to_contain_text("No votes")
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_gate_and_triggers_are_set_in_the_campaigns_form(context, open_page, expect):
    open_page.expected = ("422",)
    page = open_page("rosa")
    page.goto(f"{open_page.url}/console/campaign")
    page.get_by_label("A new policy serves when").select_option("human")
    page.get_by_role("button", name="Save the campaign").click()
    expect(page.locator("#saved")).to_contain_text("gate_share")  # nobody would be asked
    page.get_by_label("Share of pairs that compare policies").fill("0.2")
    page.get_by_label("A round after new labels").fill("400")
    page.get_by_role("button", name="Save the campaign").click()
    expect(page.locator("#saved")).to_contain_text("Saved")
    campaign = context.store.campaign()
    assert (campaign.gate, campaign.gate_share, campaign.gate_threshold, campaign.gate_votes) == ("human", 0.2, 0.5, 300)
    assert (campaign.round_every_labels, campaign.round_every_hours, campaign.gate_trains) == (400, None, False)
    assert_accessible(page)
