"""Both engines alike: what excluded people judged does not count, they are handed nothing, and it outlives a restart."""

from tests.storage.builders import fill, judge, make_prompt, make_task


def test_exclusion_counts_in_views_and_leases_and_is_taken_back(reopen):
    store = reopen()
    fill(store, wanted=2)
    judge(store, "ann0", "a")
    judge(store, "ann1", "b")
    store.append_event(actor="rosa", kind="annotator.excluded", subject="ann0", data={"reason": "a test"})
    for _ in range(2):  # as it is, and after a restart
        assert store.count_judgments() == 1 and store.lease("ann0", 1) == [] and len(store.lease("ann2", 1)) == 1
        [row] = store.query("SELECT annotator_id, reason FROM excluded_annotators").to_pylist()
        assert row == {"annotator_id": "ann0", "reason": "a test"}
        seen = store.query("SELECT annotator_id, excluded FROM all_judgments ORDER BY seq").to_pylist()
        assert [(r["annotator_id"], r["excluded"]) for r in seen] == [("ann0", True), ("ann1", False)]
        store = reopen()
    store.append_event(actor="rosa", kind="annotator.included", subject="ann0", data={"reason": "a mistake"})
    assert store.count_judgments() == 2 and len(store.lease("ann0", 1)) == 1


def test_a_pair_of_known_responses_is_given_to_one_person_only(store):
    fill(store, num_tasks=1)
    again = make_task("again", "q0", "q0-2", "q0-1", wanted=0, purpose="audit", priority=9.0)
    pair = store.add_live_pair(make_prompt("q0"), (), again, annotator_id="ann1")
    assert pair is not None and (pair.response_a_id, pair.response_b_id) == ("q0-2", "q0-1")
    assert [lease.task_id for lease in store.lease("ann0", 5)] == ["t0"]
