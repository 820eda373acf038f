"""The training round and the budget as the API and the command line tell of them."""

import json
import sys

import pytest

from annotate_app.cli import main
from storage.campaign import Campaign
from storage.import_training import import_training

API = "/api/v1"
PAIRS = [
    {"prompt": f"Training {k}?", "response_a": "Bad.", "response_b": "Good.", "verdict": "b", "explanation": "It is *good*."}
    for k in range(2)
]


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)))
    return path


def judge(client, pair, verdict, **body):
    return client.post(f"{API}/judgments", json={"lease_id": pair["lease_id"], "verdict": verdict} | body).json()


def test_training_over_http_from_the_first_pair_to_real_work(client, context, gold):
    import_training(context.store, gold)
    context.store.set_campaign(Campaign(pass_mark=0.5, num_training=2), actor="rosa")
    first, second = client.post(f"{API}/leases", json={"count": 5}).json()["leases"]
    assert (first["kind"], second["kind"]) == ("training", "training")
    good = "a" if first["response_a"]["text"] == "Good." else "b"
    told = judge(client, first, good)
    assert told["feedback"] == {"right": True, "expected": good, "explanation": "It is *good*."}
    assert told["training"] == {"done": 1, "total": 2, "right": 1, "passed": None}
    assert client.get(f"{API}/me/stats").json()["training"] == told["training"]
    last = judge(client, second, "tie", next=2)
    assert (last["feedback"]["right"], last["training"]["passed"]) == (False, True)
    assert [pair["kind"] for pair in last["next"]] == ["pair", "pair"]
    real = judge(client, last["next"][0], "a")
    assert (real["feedback"], real["training"]) == (None, None)
    assert [j["verdict"] for j in client.get(f"{API}/me/judgments").json()["judgments"]] == ["a"]
    assert client.get(f"{API}/me/progress").json()["done_total"] == 1
    assert client.post(f"{API}/judgments/{first['lease_id']}/withdraw").status_code == 404


def test_the_command_imports_training_pairs_and_names_bad_rows(gold, tmp_path, monkeypatch, capsys):
    def nashloop(*arguments):
        monkeypatch.setattr(sys, "argv", ["nashloop", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capsys.readouterr()

    code, out, _ = nashloop("prompts", "gold", gold, "--data", tmp_path / "data", "--json")
    assert (code, json.loads(out)) == (0, {"rows": 2, "pairs": 2, "answers": 2, "bad_rows": []})
    gold.write_text(json.dumps(PAIRS[0] | {"verdict": "left"}))
    code, _, err = nashloop("prompts", "gold", gold, "--data", tmp_path / "data")
    assert (code, "row 1: verdict is 'left'" in err) == (2, True)


def test_a_spent_budget_hands_out_no_new_pairs_and_says_so(client, context):
    context.store.set_campaign(Campaign(budget_labels=2), actor="rosa")
    first, second = client.post(f"{API}/leases", json={"count": 5}).json()["leases"]  # three pairs are there
    assert judge(client, first, "a", next=1)["next"] == []
    shown = client.get(f"{API}/me/progress").json()
    assert (shown["budget_reached"], shown["remaining"]) == (True, 0)
    [again] = judge(client, second, "skip", next=1)["next"]  # a skip costs nothing
    assert judge(client, again, "tie")["judgment"]["verdict"] == "tie"
    assert client.post(f"{API}/leases").json()["leases"] == []
    # taking one back frees its place in the budget, and the pair itself comes again
    lease = client.post(f"{API}/judgments/{first['lease_id']}/withdraw").json()["lease"]
    assert client.post(f"{API}/leases").json()["leases"] == []
    judge(client, lease, "b")
    context.store.set_campaign(Campaign(budget_labels=3), actor="rosa")
    assert client.get(f"{API}/me/progress").json()["budget_reached"] is False
