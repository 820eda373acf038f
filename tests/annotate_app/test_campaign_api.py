"""The campaign over HTTP and by command: who may read and set it, what is refused, the guidelines."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from annotate_app.auth import issue_token
from annotate_app.cli import main

CAMPAIGN = "/api/v1/campaign"


@pytest.fixture
def researcher(app, context):
    """A program of scope research."""
    _, secret = issue_token(context.store, name="study", scope="research", annotator_handle="Annotator 1")
    return TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)


def test_a_researcher_sets_the_campaign_and_annotators_read_it(researcher, client):
    wanted = {"aspects": ["helpful", "safe"], "min_rationale": 12, "price_per_label": 0.15, "round": {"update": {"rule": "onpo"}}}
    answer = researcher.put(CAMPAIGN, json=wanted)
    assert (answer.status_code, researcher.get(CAMPAIGN).json()) == (200, answer.json())
    assert {name: answer.json()[name] for name in wanted} == wanted
    assert answer.json()["overlap"] == 1
    shown = client.get(CAMPAIGN).json()
    assert (shown["aspects"], shown["min_rationale"]) == (["helpful", "safe"], 12)
    hidden = set(answer.json()) - set(shown)
    assert {"price_per_label", "currency", "budget_labels", "round", "round_every_labels"} < hidden
    assert hidden >= {"gate", "gate_share", "gate_threshold", "gate_votes", "gate_trains"}  # who knows the share could guess


def test_annotators_cannot_set_it(client, context):
    assert client.put(CAMPAIGN, json={"overlap": 2}).status_code == 403
    assert context.store.campaign().overlap == 1


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"min_rationale": -1}, "min_rationale", "-1"),
        ({"aspects": ["safe", ""]}, "aspects.1", "''"),
        ({"prize": 3}, "prize", "prize"),
        ({"pass_mark": 0.5}, None, "num_training"),
        ({"round": {"update": {"rate": 1}}}, None, "update.rate"),
        ({"round": {"overlap": "two"}}, None, "round.overlap = 'two'"),
    ],
)
def test_a_wrong_value_is_422_and_named(researcher, body, field, told):
    answer = researcher.put(CAMPAIGN, json=body)
    assert (answer.status_code, answer.json()["error"].get("field")) == (422, field)
    assert told in answer.json()["error"]["message"]


def test_the_campaigns_guidelines_come_before_the_file(researcher, client, context):
    (context.data_dir / "guidelines.md").write_text("From the *file*.")
    assert client.get("/api/v1/guidelines").json()["html"] == "<p>From the <em>file</em>.</p>"
    researcher.put(CAMPAIGN, json={"guidelines": "From the **campaign**."})
    assert client.get("/api/v1/guidelines").json()["html"] == "<p>From the <strong>campaign</strong>.</p>"


@pytest.fixture
def nashloop(monkeypatch, capsys):
    """The command line in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nashloop", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_sets_what_a_file_says_and_shows_it_as_such_a_file(nashloop, tmp_path):
    file, data = tmp_path / "campaign.toml", tmp_path / "data"
    file.write_text('aspects = ["helpful", "safe"]\nmin_rationale = 20\npass_mark = 0.8\nnum_training = 5\n')
    assert nashloop("campaign", "set", file, "--data", data)[0] == 0
    code, shown, _ = nashloop("campaign", "show", "--data", data)
    values = tomllib.loads(shown)
    assert (code, values["aspects"], values["min_rationale"], values["overlap"]) == (0, ["helpful", "safe"], 20, 1)
    file.write_text(shown)
    assert nashloop("campaign", "set", file, "--data", data)[1] == shown


def test_the_command_refuses_a_wrong_file_in_one_sentence(nashloop, tmp_path):
    file = tmp_path / "campaign.toml"
    file.write_text("overlap = 0\n")
    code, out, err = nashloop("campaign", "set", file, "--data", tmp_path / "data")
    assert (code, out) == (2, "")
    assert err.startswith("error: overlap: ") and "Traceback" not in err and err.count("overlap") == 1
    code, _, err = nashloop("campaign", "set", tmp_path / "missing.toml", "--data", tmp_path / "data")
    assert code == 2 and "missing.toml" in err


def test_the_examples_are_taken_as_they_are(nashloop, tmp_path):
    examples, data = Path(__file__).parents[2] / "docs" / "examples", tmp_path / "data"
    code, out, _ = nashloop("prompts", "gold", examples / "training.jsonl", "--data", data, "--json")
    assert (code, json.loads(out)["pairs"]) == (0, 5)
    code, out, _ = nashloop("campaign", "set", examples / "campaign.toml", "--data", data, "--json")
    assert (code, json.loads(out)["num_training"], json.loads(out)["round"]) == (0, 5, {"update": {"rule": "onpo_ref"}})
