"""Rankings of several responses: what an annotator may say, how it is kept, and that everything else reads it as pairs."""

from itertools import combinations

import pyarrow.parquet as pq
import pytest

from storage.campaign import Campaign
from storage.contract.settings import build_settings
from storage.duckdb_store import open_store
from storage.errors import UserError
from storage.exports import write_export
from storage.imports import import_judgments
from storage.rankings import check_ranking, ids_ranked, letters_ranked, verdict_of_first_two
from storage.records import JudgmentInput, Span
from storage.round_export import export_job
from tests.storage.builders import fill, judge, make_prompt, make_response, make_task

SHOWN = ("r1", "r2", "r3", "r4")


def add_rankings(store, num_tasks=2, num_responses=4, **task):
    """Tasks k0.. that rank several responses q0-1.. of prompts q0.. ."""
    fill(store, num_tasks=num_tasks)
    store.close_tasks([f"t{i}" for i in range(num_tasks)], actor="system", reason="rankings are tested")
    for i in range(num_tasks):
        more = [f"q{i}-{k}" for k in range(3, num_responses + 1)]
        store.add_responses([make_response(name, f"q{i}") for name in more])
        store.add_tasks([make_task(f"k{i}", f"q{i}", f"q{i}-1", f"q{i}-2", more_response_ids=tuple(more), **task)])


def rank(store, annotator_id, ranking, **more):
    """Answer the next ranking: (leased, result)."""
    [leased] = store.lease(annotator_id, 1)
    said = JudgmentInput(lease_id=leased.lease_id, verdict=verdict_of_first_two(ranking), ranking=ranking, **more)
    return leased, store.submit(said, annotator_id=annotator_id)


def test_letters_become_ids_and_letters_again():
    ranking = (("c",), ("d", "a"), ("b",))
    ids = ids_ranked(ranking, SHOWN)
    assert ids == (("r3",), ("r1", "r4"), ("r2",))
    assert letters_ranked(ids, SHOWN) == (("c",), ("a", "d"), ("b",))


@pytest.mark.parametrize(
    ("ranking", "verdict"),
    [((("a",), ("b",), ("c",)), "a"), ((("c",), ("b",), ("a",)), "b"), ((("c",), ("a", "b")), "tie")],
)
def test_the_verdict_is_that_of_the_first_two(ranking, verdict):
    assert verdict_of_first_two(ranking) == verdict


@pytest.mark.parametrize(
    "ranking", [(), (("a",), ("b",)), (("a",), ("a", "b", "c")), (("a", "b", "c"), ()), (("a", "b"), ("d",))]
)
def test_a_ranking_names_every_letter_once(ranking):
    with pytest.raises(UserError, match="must name each of a, b, c once"):
        check_ranking(ranking, 3)


def test_all_responses_are_shown_and_the_ranking_is_kept_in_ids(store):
    add_rankings(store)
    leased, result = rank(store, "ann0", (("d",), ("a", "c"), ("b",)), rationale="d is short")
    shown = (leased.response_a_id, leased.response_b_id, *leased.more_response_ids)
    assert sorted(shown) == ["q0-1", "q0-2", "q0-3", "q0-4"]
    assert (leased.response_a, leased.response_b, *leased.more_responses) == tuple(f"Answer {i}." for i in shown)
    assert result.judgment.ranking == ((shown[3],), (shown[0], shown[2]), (shown[1],))
    assert (result.judgment.verdict, result.judgment.shown_ids) == ("a", shown)
    assert store.list_judgments() == [result.judgment]


def test_orders_differ_between_annotators(store):
    add_rankings(store, num_tasks=1, num_responses=5, wanted=20)
    orders = set()
    for annotator_id in ("ann0", "ann1", "ann2"):
        [leased] = store.lease(annotator_id, 1)
        orders.add((leased.response_a_id, leased.response_b_id, *leased.more_response_ids))
    assert len(orders) == 3  # of 120; the seed is fixed


def test_a_ranking_counts_as_its_pairs(store, tmp_path):
    add_rankings(store)
    leased, result = rank(store, "ann0", (("d",), ("a", "c"), ("b",)), rationale="d is short", edited_text="Better.")
    a, b, c, d = leased.response_a_id, leased.response_b_id, *leased.more_response_ids
    rows = store.query("SELECT * FROM standing_judgments ORDER BY judgment_id").to_pylist()
    assert [(row["response_a_id"], row["response_b_id"], row["verdict"]) for row in rows] == [
        (a, b, "a"), (a, c, "tie"), (a, d, "b"), (b, c, "b"), (b, d, "b"), (c, d, "b"),
    ]  # fmt: skip
    assert len({row["judgment_id"] for row in rows}) == 6
    assert {row["ranking_id"] for row in rows} == {result.judgment.id}
    assert [row["rationale"] for row in rows] == ["d is short"] + [None] * 5
    assert [row["edited_text"] for row in rows] == ["Better."] + [None] * 5
    assert (store.count_judgments(), store.count_judgments(decided_only=True)) == (6, 5)
    stats = store.stats()
    assert (stats["judgments"], stats["verdicts"]["b"], stats["tasks_open"]) == (6, 4, 1)
    assert stats["by_annotator"][0]["judgments"] == 1  # one decision of one person
    written = {name: write_export(store, name, tmp_path / f"{name}.jsonl") for name in ("raw", "trl", "arena")}
    assert written == {"raw": 6, "trl": 5, "arena": 6}


def test_all_bad_and_skipped_rankings_need_no_order(store):
    add_rankings(store, num_responses=3)
    judge(store, "ann0", "both_bad")
    judge(store, "ann0", "skip")
    rows = store.query("SELECT verdict FROM standing_judgments ORDER BY seq").to_pylist()
    assert [row["verdict"] for row in rows] == ["both_bad"] * 3 + ["skip"]


def test_taken_back_and_corrected_rankings_count_once(store):
    add_rankings(store, num_tasks=1, num_responses=3)
    leased, first = rank(store, "ann0", (("a",), ("b",), ("c",)))
    assert store.count_judgments() == 3
    again = store.withdraw(first.judgment.id, annotator_id="ann0")
    assert (again.response_a_id, again.more_response_ids) == (leased.response_a_id, leased.more_response_ids)
    assert store.count_judgments() == 0
    said = JudgmentInput(lease_id=again.lease_id, verdict="b", ranking=(("c",), ("b",), ("a",)))
    second = store.submit(said, annotator_id="ann0").judgment
    corrected = JudgmentInput(lease_id=second.id, verdict="tie", ranking=(("b", "a", "c"),))
    assert store.correct(corrected, annotator_id="ann0").status == "stored"
    assert store.correct(corrected, annotator_id="ann0").status == "duplicate"
    assert [row["verdict"] for row in store.query("SELECT verdict FROM judged_pairs").to_pylist()] == ["tie"] * 3


def test_the_same_ranking_again_is_a_duplicate_after_opening_again_too(reopen):
    store = reopen()
    add_rankings(store, num_tasks=2, num_responses=3)
    leased, _ = rank(store, "ann0", (("c",), ("b", "a")))
    [held] = store.lease("ann0", 1)
    store = reopen()
    assert store.lease("ann0", 1, resume=True) == [held]
    same = JudgmentInput(lease_id=leased.lease_id, verdict="tie", ranking=(("c",), ("a", "b")))
    assert store.submit(same, annotator_id="ann0").status == "duplicate"
    other = JudgmentInput(lease_id=leased.lease_id, verdict="b", ranking=(("c",), ("b",), ("a",)))
    assert store.submit(other, annotator_id="ann0").status == "conflict"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"verdict": "a"}, "ranking is missing: 3 responses were shown"),
        ({"verdict": "a", "ranking": (("a",), ("b",))}, "must name each of a, b, c once"),
        ({"verdict": "b", "ranking": (("a",), ("b",), ("c",))}, "contradicts the ranking"),
        ({"verdict": "a", "ranking": (("a",), ("b",), ("c",)), "strength": 2}, "belong to pairs"),
    ],
)
def test_what_is_no_ranking_is_refused(store, said, told):
    add_rankings(store, num_responses=3)
    [leased] = store.lease("ann0", 1)
    with pytest.raises(UserError, match=told):
        store.submit(JudgmentInput(lease_id=leased.lease_id, **said), annotator_id="ann0")
    assert store.list_judgments() == []


def test_a_task_needs_all_its_responses(store):
    fill(store, num_tasks=1)
    with pytest.raises(ValueError, match="unknown responses"):
        store.add_tasks([make_task("k", "q0", "q0-1", "q0-2", more_response_ids=("q0-3",))])


def test_the_rationale_asked_for_goes_with_a_ranking_too(store):
    add_rankings(store, num_responses=3)
    store.set_campaign(Campaign(min_rationale=5), actor="rosa")
    with pytest.raises(UserError, match="asks for 5"):
        rank(store, "ann0", (("c",), ("a", "b")))


def test_a_raw_export_of_rankings_and_spans_is_imported_as_its_pairs(store, tmp_path):
    add_rankings(store, num_tasks=1, num_responses=3)
    rank(store, "ann0", (("c",), ("a", "b")), rationale="c is short")
    store.add_tasks([make_task("plain", "q0", "q0-1", "q0-2")])
    spans = (Span(side="a", start=0, end=3, note="ü"), Span(side="b", start=2, end=4))
    judge(store, "ann0", "b", spans=spans)
    write_export(store, "raw", tmp_path / "raw.jsonl")
    other = open_store()
    assert import_judgments(other, tmp_path / "raw.jsonl")["judgments"] == 4
    columns = "judgment_id, response_a_id, response_b_id, verdict, rationale, spans"
    said = f"SELECT {columns} FROM standing_judgments ORDER BY seq, judgment_id"
    assert other.query(said).to_pylist() == store.query(said).to_pylist()
    [marked] = [judgment for judgment in other.list_judgments() if judgment.spans]
    assert marked.spans == spans
    other.close()


def test_a_job_is_given_the_pairs_of_a_ranking_and_each_response_once(store, tmp_path):
    add_rankings(store, num_tasks=2, num_responses=4)
    store.add_prompts([make_prompt("h", split="heldout")])
    leased, result = rank(store, "ann0", (("d",), ("c",), ("b",), ("a",)), edited_text="Better still.")
    settings = build_settings({"preference": {"min_judgments": 6}})
    job_dir = export_job(store, tmp_path / "jobs" / "0001-round", settings, kind="round", number=1, policy_id="policy0")
    rows = pq.read_table(job_dir / "judgments.parquet").to_pylist()
    ids = (leased.response_a_id, leased.response_b_id, *leased.more_response_ids)
    assert [(row["response_a_id"], row["response_b_id"], row["verdict"]) for row in rows] == [
        (first, second, "b") for first, second in combinations(ids, 2)
    ]
    assert len({row["judgment_id"] for row in rows}) == 6
    assert {row["ranking_id"] for row in rows} == {result.judgment.id}
    responses = pq.read_table(job_dir / "responses.parquet").to_pylist()
    demonstrations = [row["text"] for row in responses if row["role"] == "demonstration"]
    assert (demonstrations, len(responses)) == (["Better still."], 1 + 8)  # four candidates of two prompts
