"""A job's report: what its head answers, what its sections say, and that its file needs and obeys nothing else."""

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.gate import Tally, decide_by_votes
from annotate_app.pages.report_facts import Circle, ReportFacts
from annotate_app.pages.report_html import report_page
from annotate_app.pages.report_pictures import circle, intervals
from annotate_app.pages.report_sections import build_sections, changed_settings
from annotate_app.pages.report_summary import summarise
from storage.contract.settings import build_settings
from tests.annotate_app.finished_rounds import HOSTILE, REPORT, add_finished_round

FACTS = ReportFacts(
    campaign="Cooking <b>",
    number=2,
    kind="round",
    started_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    report=REPORT,
    settings=build_settings({}).model_dump(mode="json"),
    rule_summary="one fit",
    parent="the base policy",
    made="policy 1",
    made_status="candidate",
    policies={"policy0": "the base policy"},
    annotators={"ann0": "Grace"},
    circle=Circle(prompt="Which?", texts=("stone", HOSTILE, "scissors"), probabilities=(0.8, 0.7, 0.6)),
)


def with_rate(mean, low, high, **more):
    return replace(
        FACTS, report={**REPORT, "evaluation": {"win_rate_vs_parent": {"mean": mean, "low": low, "high": high}}, **more}
    )


def said(facts):
    return [answer.short for answer in summarise(facts)]


def test_a_clear_gain_within_limits_is_to_be_promoted():
    helped, safe, after = summarise(FACTS)
    assert (helped.short, safe.short, after.short) == ("Yes.", "Yes, its limits hold.", "Promote it.")
    assert "70 % (65 to 75)" in helped.why and "the base policy" in helped.why
    assert "0.80 nats from its parent (limit 6)" in safe.why and "90%" in safe.why


@pytest.mark.parametrize(
    ("facts", "answers"),
    [
        (with_rate(0.52, 0.47, 0.57), ["Not shown.", "Yes, its limits hold.", "Label more pairs."]),
        (with_rate(0.4, 0.35, 0.45), ["No, it is worse.", "No.", "Keep the parent."]),
        (with_rate(0.6, None, None), ["Cannot be told.", "Yes, its limits hold.", "Label more pairs."]),
        (with_rate(0.9, 0.8, 0.95, status="failed"), ["Yes.", "No, a limit was left.", "Change the settings."]),
        (replace(FACTS, made_status="serving"), ["Yes.", "Yes, its limits hold.", "Label its responses."]),
        (replace(FACTS, kind="fit"), ["Fit finished."]),
    ],
)
def test_the_head_answers_what_was_measured(facts, answers):
    assert said(facts) == answers


@pytest.mark.parametrize(
    ("wins", "losses", "status", "answers"),
    [
        (6, 4, "candidate", ["Not decided.", "Wait for people's votes."]),
        (12, 0, "candidate", ["Yes.", "Promote it."]),
        (0, 12, "retired", ["No.", "Keep the parent."]),
        (6, 4, "serving", ["Not decided.", "Label its responses."]),
    ],
)
def test_what_people_voted_is_told_and_comes_before_what_the_model_expects(wins, losses, status, answers):
    gate = decide_by_votes([Tally(wins=wins, losses=losses)])
    helped, preferred, safe, after = summarise(replace(FACTS, gate=gate, people_vote=True, made_status=status))
    assert [preferred.short, after.short] == answers
    assert f"in {wins + losses} blind votes" in preferred.why
    assert helped.short == "Yes." and "what people prefer is the stronger evidence" in safe.why
    if answers == ["Not decided.", "Wait for people's votes."]:  # until all pairs are judged
        assert summarise(replace(FACTS, gate=gate, people_vote=False))[-1].short == "Promote it."


def test_a_gain_of_a_model_no_better_than_coins_is_not_believed():
    weak = {**REPORT["preference"], "models": {"bradley_terry": {"accuracy": 0.52, "log_loss": 0.69}}}
    assert said(with_rate(0.7, 0.65, 0.75, preference=weak)) == ["Yes.", "With care.", "Collect more judgments."]


def test_a_gain_that_is_length_is_called_so():
    evaluation = {**REPORT["evaluation"], "length_controlled_vs_parent": {"mean": 0.51, "low": 0.46, "high": 0.56}}
    helped, safe, _ = summarise(replace(FACTS, report={**REPORT, "evaluation": evaluation}))
    assert "nothing but length" in helped.why
    assert safe.short == "With care."


def test_sections_without_anything_to_say_are_left_out():
    names = [section.name for section in build_sections(FACTS)]
    assert names == ["went-in", "preference-model", "cycles", "step", "outcome", "examples", "record"]
    bare = replace(FACTS, kind="evaluate", report={"evaluation": {"text_quality": 0.9}}, circle=None)
    assert [section.name for section in build_sections(bare)] == ["outcome", "record"]


def test_settings_changed_by_hand_are_named():
    settings = build_settings({"update": {"step_size": 3.0}, "generation": {"num_responses": 8}}).model_dump(mode="json")
    assert changed_settings({**settings, "options": {"promote": "gate"}}) == [
        ("generation.num_responses", "8"),
        ("update.step_size", "3"),
    ]
    assert changed_settings(FACTS.settings) == []


def test_the_page_says_the_figures_in_words():
    page = report_page(FACTS)
    for sentence in (
        "400 judgments by 1 annotator, on 512 responses to 128 prompts",
        "automatic: the audit did not find cycles",
        "It carries over.",
        "Responses went from 40 to 48 tokens on average. Length explains +2.0 points of the win rate",
        "beats the new policy in 60% of comparisons",  # (1 + .2) / 2
        "is preferred in 50.0% of cases",  # 1 / (1 + e^0)
        "Grace",
    ):
        assert sentence in page, sentence


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_hostile_texts_stay_texts_and_the_file_loads_nothing():
    tags = Tags(report_page(FACTS)).found
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "link", "object", "form", "base"}
    for tag, attributes in tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    policy = next(attributes["content"] for tag, attributes in tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "Cooking &lt;b&gt;" in report_page(FACTS)


def test_every_picture_has_its_numbers_as_a_table():
    page = report_page(FACTS)
    assert page.count("<figure>") == page.count("<summary>The numbers</summary>") == 6
    assert 'href="#cycles"' in page and 'id="cycles"' in page


def test_an_interval_is_drawn_to_scale():
    # The axis runs from 150 to 436: x(.25) = 221.5, x(.75) = 364.5, x(.5) = 293.
    picture = intervals([("vs base <&>", {"mean": 0.5, "low": 0.25, "high": 0.75})])
    assert 'class="whisker" x1="221.5" x2="364.5"' in picture
    assert 'cx="293.0"' in picture and "vs base &lt;&amp;&gt;" in picture


def test_a_circle_has_three_arrows_with_their_probabilities():
    picture = circle((0.8, 0.7, 0.6))
    assert picture.count('class="arrow"') == 3
    assert [share for share in ("80%", "70%", "60%") if share in picture] == ["80%", "70%", "60%"]


@pytest.fixture
def researcher(app, context):
    _, secret = issue_token(context.store, name="researcher", scope="research")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"})


def test_the_page_is_served_to_read_and_to_download(researcher, context):
    add_finished_round(context)
    assert [job["number"] for job in researcher.get("/api/v1/reports").json()["reports"]] == [1]
    read = researcher.get("/api/v1/rounds/1/report.html")
    assert read.status_code == 200 and "content-disposition" not in read.headers
    for shown in ("policy 1, made from the base policy", "Annotator 0", "Question q0?", "Answer q1-1.", "More than chance."):
        assert shown in read.text, shown
    told = researcher.get("/api/v1/rounds/1/summary").json()["summary"]
    assert [answer["short"] for answer in told] == ["Yes.", "Yes, its limits hold.", "Promote it."]
    kept = researcher.get("/api/v1/rounds/1/report.html?download=true")
    assert kept.headers["content-disposition"] == 'attachment; filename="round-1-report.html"'


def test_annotators_do_not_read_reports_and_a_job_without_one_is_not_found(researcher, client, context):
    add_finished_round(context)
    assert client.get("/api/v1/rounds/1/report.html").status_code == 403
    assert client.get("/api/v1/reports").status_code == 403
    assert client.get("/api/v1/rounds/1/summary").status_code == 403
    for page in ("report.html", "summary"):
        assert researcher.get(f"/api/v1/rounds/2/{page}").status_code == 404


def test_a_circle_of_responses_that_are_not_kept_here_is_left_out(researcher, context):
    circle = {"responses": ["gone1", "gone2", "q0-1"], "probabilities": [0.8, 0.7, 0.6]}
    add_finished_round(context, audit={"cyclic": True, "sentence": "Cycles.", "circle": circle})
    assert "Cycles." in (page := researcher.get("/api/v1/rounds/1/report.html").text)
    assert "clearest circle" not in page
