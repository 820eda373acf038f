"""The training round: who passes, which pairs come when, what is told, and that nothing of it counts elsewhere."""

import json

import pyarrow.parquet as pq
import pytest

from storage.campaign import Campaign
from storage.contract.settings import build_settings
from storage.errors import UserError
from storage.exports import write_export
from storage.import_training import import_training
from storage.records import Feedback, JudgmentInput, TrainingStatus
from storage.round_export import export_job
from storage.training import training_status
from tests.storage.builders import fill, judge, make_prompt

ROWS = [
    {"prompt": f"Training {k}?", "response_a": "Good.", "response_b": "Bad.", "verdict": "a", "explanation": f"Because {k}."}
    for k in range(3)
]


@pytest.fixture
def pairs(tmp_path):
    """A file of three training pairs; in each the response called Good. is better."""
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def in_training(store, path, *, num_training=3, pass_mark=0.6, **campaign):
    """Three training pairs beside three real ones, and a campaign that asks for them."""
    import_training(store, path)
    fill(store)
    store.set_campaign(Campaign(num_training=num_training, pass_mark=pass_mark, **campaign), actor="rosa")


def answer(store, annotator_id, right):
    """Answer the next pair rightly or wrongly; (task, result)."""
    [pair] = store.lease(annotator_id, 1)
    good = "a" if pair.response_a == "Good." else "b"
    verdict = good if right else {"a": "b", "b": "a"}[good]
    return pair, store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=verdict), annotator_id=annotator_id)


def status(done, right, passed, total=3):
    return TrainingStatus(done=done, total=total, right=right, passed=passed)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], status(0, 0, None)),
        ([1, 0], status(2, 1, None)),
        ([1, 0, 1], status(3, 2, True)),  # 2/3 >= .6
        ([1, 0, 0], status(3, 1, False)),
        ([1, 0, 0, 1], status(1, 1, None)),  # the second round is under way
        ([1, 0, 0, 1, 1, 0], status(3, 2, True)),
        ([1, 1, 1, 0, 0, 0], status(3, 3, True)),  # passed is passed
    ],
)
def test_rounds_are_counted_until_one_passes(outcomes, expected):
    assert training_status([bool(x) for x in outcomes], 3, 0.6) == expected


def test_training_comes_first_and_real_pairs_after_passing(store, pairs):
    in_training(store, pairs)
    shown = []
    for right, expected in ((True, status(1, 1, None)), (False, status(2, 1, None)), (True, status(3, 2, True))):
        pair, result = answer(store, "ann0", right)
        shown.append(pair.prompt[0].content)
        assert (pair.purpose, result.training, result.feedback.right) == ("gold", expected, right)
    assert shown == ["Training 0?", "Training 1?", "Training 2?"]
    assert store.training("ann0") == status(3, 2, True)
    assert [pair.task_id for pair in store.lease("ann0", 9)] == ["t0", "t1", "t2"]
    assert store.training("ann1") == status(0, 0, None)


def test_feedback_tells_the_expected_side_as_it_was_shown_and_why(store, pairs):
    in_training(store, pairs)
    for annotator_id in ("ann0", "ann1", "ann2"):
        pair, result = answer(store, annotator_id, right=False)
        expected = "a" if pair.response_a == "Good." else "b"
        assert result.feedback == Feedback(right=False, expected=expected, explanation="Because 0.")
        again = store.submit(JudgmentInput(lease_id=pair.lease_id, verdict=result.judgment.verdict), annotator_id=annotator_id)
        assert (again.status, again.feedback, again.training) == ("duplicate", result.feedback, result.training)


def test_a_failed_round_is_followed_by_another_with_the_pairs_seen_least(store, pairs):
    in_training(store, pairs, num_training=2, pass_mark=1.0)
    shown = [answer(store, "ann0", right)[0].prompt[0].content[-2] for right in (True, False, True, True)]
    assert shown == ["0", "1", "2", "0"]
    assert store.training("ann0").passed
    assert store.lease("ann0", 1)[0].task_id == "t0"


def test_no_more_training_pairs_are_handed_out_than_the_round_needs(store, pairs):
    in_training(store, pairs, num_training=2, pass_mark=0.5)
    assert [pair.purpose for pair in store.lease("ann0", 9)] == ["gold", "gold"]
    assert store.lease("ann0", 9) == []
    resumed = store.lease("ann0", 9, resume=True)
    assert [pair.purpose for pair in resumed] == ["gold", "gold"]
    said = JudgmentInput(lease_id=resumed[0].lease_id, verdict="skip")
    result = store.submit(said, annotator_id="ann0")
    assert (result.feedback, result.training) == (None, status(0, 0, None, total=2))  # a skip is no answer
    [other] = store.lease("ann0", 9)
    assert other.prompt[0].content == "Training 2?"


def test_everybody_answers_the_same_pairs_at_once(store, pairs):
    in_training(store, pairs)
    given = {annotator_id: store.lease(annotator_id, 9) for annotator_id in ("ann0", "ann1", "ann2")}
    assert len({tuple(pair.task_id for pair in leases) for leases in given.values()}) == 1
    for annotator_id, leases in given.items():
        for pair in leases:
            said = JudgmentInput(lease_id=pair.lease_id, verdict="tie")
            assert store.submit(said, annotator_id=annotator_id).status == "stored"


def test_training_goes_on_after_a_restart(reopen, pairs):
    store = reopen()
    in_training(store, pairs)
    answer(store, "ann0", right=True)
    [held] = store.lease("ann0", 1)
    store = reopen()
    assert store.training("ann0") == status(1, 1, None)
    assert store.lease("ann0", 1, resume=True) == [held]
    answer_later = JudgmentInput(lease_id=held.lease_id, verdict="both_bad")
    result = store.submit(answer_later, annotator_id="ann0")
    assert (result.feedback.right, result.training) == (False, status(2, 1, None))
    assert reopen().training("ann0") == status(2, 1, None)


def test_an_answer_once_told_cannot_be_changed(store, pairs):
    in_training(store, pairs)
    pair, _ = answer(store, "ann0", right=False)
    assert store.withdraw(pair.lease_id, annotator_id="ann0") is None
    said = JudgmentInput(lease_id=pair.lease_id, verdict="tie")
    assert store.correct(said, annotator_id="ann0").status == "unknown"
    assert store.training("ann0") == status(1, 0, None)


def test_without_a_pass_mark_or_without_training_pairs_real_work_begins_at_once(store, pairs):
    fill(store)
    store.set_campaign(Campaign(num_training=3, pass_mark=0.5), actor="rosa")
    assert store.training("ann0") is None
    assert store.lease("ann0", 1)[0].task_id == "t0"
    import_training(store, pairs)
    store.set_campaign(Campaign(num_training=3), actor="rosa")
    assert store.lease("ann1", 1)[0].task_id == "t1"


def test_training_counts_nowhere_but_in_its_own_export(store, pairs, tmp_path):
    in_training(store, pairs)
    for right in (True, True, True):
        answer(store, "ann0", right)
    judge(store, "ann0", "tie")
    answer(store, "ann1", right=False)
    stats = store.stats()
    assert (stats["judgments"], store.count_judgments(), stats["verdicts"]["tie"], stats["tasks_open"]) == (1, 1, 1, 2)
    assert {row["handle"]: (row["judgments"], row["training"]["passed"]) for row in stats["by_annotator"]} == {
        "Annotator 0": (1, True), "Annotator 1": (0, None),
    }  # fmt: skip
    written = {name: write_export(store, name, tmp_path / f"{name}.jsonl") for name in ("raw", "arena", "trl", "training")}
    assert written == {"raw": 1, "arena": 1, "trl": 0, "training": 4}


def test_importing_again_adds_nothing_and_a_corrected_answer_corrects_the_counts(reopen, pairs):
    store = reopen()
    in_training(store, pairs)
    answer(store, "ann0", right=True)
    assert import_training(store, pairs) == {"rows": 3, "pairs": 0, "answers": 0, "bad_rows": []}
    pairs.write_text(json.dumps(ROWS[0] | {"verdict": "tie"}))
    assert import_training(store, pairs) == {"rows": 1, "pairs": 0, "answers": 1, "bad_rows": []}
    assert store.training("ann0") == reopen().training("ann0") == status(1, 0, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"verdict": "skip"}, "verdict is 'skip', expected one of a, b, tie, both_bad"),
        ({"response_b": "Good. "}, "are the same text"),
        ({"response_a": ""}, "response_a"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_imported(store, tmp_path, change, told):
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | change))
    with pytest.raises(UserError, match="row 2") as caught:
        import_training(store, path)
    assert told in str(caught.value)
    assert store.query("SELECT count(*) AS n FROM tasks")["n"][0].as_py() == 0


def test_a_job_is_given_no_training_pairs(store, pairs, tmp_path):
    in_training(store, pairs)
    for right in (True, True, False):
        answer(store, "ann0", right)
    for verdict in ("a", "b"):
        judge(store, "ann0", verdict)
    store.add_prompts([make_prompt("h", split="heldout")])
    settings = build_settings({"preference": {"min_judgments": 2}})
    job_dir = export_job(store, tmp_path / "jobs" / "0001-round", settings, kind="round", number=1, policy_id="policy0")
    assert pq.read_table(job_dir / "judgments.parquet")["purpose"].to_pylist() == ["label", "label"]
    assert "Good." not in pq.read_table(job_dir / "responses.parquet")["text"].to_pylist()
    with pytest.raises(UserError, match="only 2 decided judgments"):
        export_job(
            store, tmp_path / "jobs" / "0002-round", build_settings({"preference": {"min_judgments": 3}}),
            kind="round", number=2, policy_id="policy0",
        )  # fmt: skip
