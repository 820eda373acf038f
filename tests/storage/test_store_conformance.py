"""What every Store does, whatever keeps it."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from storage.campaign import Campaign
from storage.errors import UserError
from storage.records import Annotator, Credential, Judgment, JudgmentInput, Round, Span, Token, User
from tests.storage.builders import START, fill, judge, make_policy, make_prompt, make_response, make_task

LEASE_SECONDS = 600  # as in conftest


def answer(lease_id, verdict="a", **more):
    return JudgmentInput(lease_id=lease_id, verdict=verdict, **more)


# Content


def test_records_come_back_as_they_were_added(store):
    prompt = make_prompt("q", text='Quotes " and émoji 🙂\nand a new line')
    response = make_response("r", "q", token_ids=None, sum_logp=None, seed=2**40, sampler={"model": "x", "context": []})
    other = make_response("s", "q", text="")
    task = make_task("t", "q", "r", "s", wanted=2, priority=-1.5, selection_score=None)
    policy = make_policy(3, auxiliary={"policy0": 0.75, "policy1": -0.25}, parent_id="policy0")
    store.add_policy(policy)
    store.add_prompts([prompt])
    store.add_responses([response, other])
    store.add_tasks([task])
    assert store.list_prompts() == [prompt]
    assert store.list_responses() == [response, other]
    assert store.open_tasks() == [task]
    assert store.list_policies() == [policy]


def test_adding_again_changes_nothing(store):
    first, second = make_prompt("q0", text="first"), make_prompt("q1")
    assert store.add_prompts([first, second, first]) == 2
    assert store.add_prompts([replace(first, source="elsewhere"), make_prompt("q2")]) == 1
    assert [p.id for p in store.list_prompts()] == ["q0", "q1", "q2"]
    assert store.list_prompts()[0] == first


def test_many_records_keep_their_order(store):
    names = [f"q{i}" for i in range(700)]
    assert store.add_prompts([make_prompt(name) for name in names]) == 700
    assert [p.id for p in store.list_prompts("train")] == names
    assert store.list_prompts("heldout") == []


def test_what_is_referred_to_must_be_there(store):
    with pytest.raises(ValueError, match="unknown prompts"):
        store.add_responses([make_response("r", "nowhere")])
    store.add_prompts([make_prompt("q")])
    store.add_responses([make_response("r", "q")])
    with pytest.raises(ValueError, match="unknown responses"):
        store.add_tasks([make_task("t", "q", "r", "nowhere")])
    assert store.list_responses() == [make_response("r", "q")]
    assert store.open_tasks() == []


def test_a_batch_is_added_whole_or_not_at_all(store):
    with pytest.raises(ValueError, match="unknown responses"):
        store.add_batch(prompts=[make_prompt("q")], responses=[make_response("r", "q")], tasks=[make_task("t", "q", "r", "?")])
    assert store.list_prompts() == []
    assert store.list_responses() == []


@pytest.mark.parametrize("taken", ["number 0", "handle"])
def test_numbers_and_handles_are_used_once(store, taken):
    fill(store)
    again = {
        "number 0": lambda: store.add_policy(make_policy(0, id="other")),
        "handle": lambda: store.add_annotator(Annotator(id="x", handle="Annotator 0", kind="human", created_at=START)),
    }
    with pytest.raises(UserError, match="already taken"):
        again[taken]()


# Leases


def test_a_lease_holds_the_pair_in_the_order_shown(store, clock):
    fill(store)
    [pair] = store.lease("ann0", 1)
    assert pair.task_id == "t0"
    assert pair.prompt == make_prompt("q0").messages
    assert {pair.response_a_id, pair.response_b_id} == {"q0-1", "q0-2"}
    assert pair.response_a == f"Answer {pair.response_a_id}."
    assert pair.response_b == f"Answer {pair.response_b_id}."
    assert pair.expires_at == clock() + timedelta(seconds=LEASE_SECONDS)


def test_sides_are_randomised(store):
    fill(store, num_tasks=200)
    shown_first = sum(pair.response_a_id.endswith("-1") for pair in store.lease("ann0", 200))
    assert 60 < shown_first < 140  # 200 fair coins: mean 100, sd 7.1, the bounds are 5.6 sd away


def test_priority_first_then_the_order_of_adding(store):
    fill(store, num_tasks=3)
    store.add_tasks([make_task("urgent", "q2", "q2-1", "q2-2", priority=1.0)])
    assert [pair.task_id for pair in store.lease("ann0", 4)] == ["urgent", "t0", "t1", "t2"]


def test_no_more_leases_than_wanted_and_never_twice_to_one_annotator(store):
    fill(store, num_tasks=1, wanted=2)
    assert len(store.lease("ann0", 5)) == 1
    assert len(store.lease("ann1", 5)) == 1
    assert store.lease("ann2", 5) == []


def test_nobody_unknown_gets_a_lease(store):
    fill(store)
    with pytest.raises(UserError, match="'stranger' is not known"):
        store.lease("stranger", 1)


def test_resume_gives_the_open_pairs_first(store):
    fill(store, num_tasks=3)
    first = store.lease("ann0", 2)
    again = store.lease("ann0", 3, resume=True)
    assert [pair.lease_id for pair in again[:2]] == [pair.lease_id for pair in first]
    assert again[0] == first[0]
    assert again[2].task_id == "t2"


def test_resume_leaves_out_pairs_that_were_closed_meanwhile(store):
    fill(store, num_tasks=2)
    [pair] = store.lease("ann0", 1)
    store.close_tasks([pair.task_id], actor="system", reason="policy 1 serves")
    assert [again.task_id for again in store.lease("ann0", 2, resume=True)] == ["t1"]


def test_an_expired_slot_is_given_to_the_next_annotator(store, clock):
    fill(store, num_tasks=1)
    store.lease("ann0", 1)
    clock.advance(LEASE_SECONDS - 1)
    assert store.lease("ann1", 1) == []
    clock.advance(1)
    assert [pair.task_id for pair in store.lease("ann1", 1)] == ["t0"]
    assert store.lease("ann0", 1) == []


def test_renewing_keeps_a_lease(store, clock):
    fill(store, num_tasks=1)
    [pair] = store.lease("ann0", 1)
    clock.advance(LEASE_SECONDS - 1)
    assert store.renew([pair.lease_id, "unknown"], "ann0") == [pair.lease_id]
    assert store.renew([pair.lease_id], "ann1") == []
    clock.advance(LEASE_SECONDS - 1)
    assert store.lease("ann1", 1) == []
    clock.advance(1)
    assert len(store.lease("ann1", 1)) == 1
    assert store.renew([pair.lease_id], "ann0") == []


def test_closed_tasks_give_no_leases_but_take_the_answers_of_those_given(store):
    fill(store, num_tasks=2)
    [pair] = store.lease("ann0", 1)
    store.close_tasks(["t0", "t1"], actor="system", reason="policy replaced")
    assert store.lease("ann0", 1) == []
    assert store.open_tasks() == []
    assert store.submit(answer(pair.lease_id), annotator_id="ann0").status == "stored"
    store.close_tasks(["t0"], actor="system", reason="again")
    assert [e.subject for e in store.list_events(kind_prefix="task.closed")] == ["t0", "t1"]


# Judgments


def test_submit_keeps_everything_that_was_said(store, clock):
    fill(store)
    store.set_campaign(Campaign(aspects=("helpful",)), actor="rosa")
    [pair] = store.lease("ann0", 1)
    clock.advance(9)
    spans = (Span(side="b", start=0, end=6, note="good"), Span(side="a", start=3, end=4))
    said = answer(
        pair.lease_id, "b", strength=3, aspects={"helpful": 2}, rationale="Ünclear", reasons=("short", "wrong"),
        edited_text="better", spans=spans, shown_at=START,
    )  # fmt: skip
    result = store.submit(said, annotator_id="ann0")
    assert result.status == "stored"
    assert result.judgment == Judgment(
        id=pair.lease_id, seq=1, task_id="t0", annotator_id="ann0", prompt_id="q0", response_a_id=pair.response_a_id,
        response_b_id=pair.response_b_id, verdict="b", strength=3, aspects={"helpful": 2}, rationale="Ünclear",
        reasons=("short", "wrong"), edited_text="better", shown_at=START, submitted_at=START + timedelta(seconds=9),
        supersedes=None, spans=spans,
    )  # fmt: skip
    assert store.list_judgments() == [result.judgment]
    assert store.get_judgment(pair.lease_id) == result.judgment


def test_the_same_answer_again_is_a_duplicate_and_another_one_a_conflict(store, clock):
    fill(store)
    [pair] = store.lease("ann0", 1)
    first = store.submit(answer(pair.lease_id, "a", strength=1, shown_at=START), annotator_id="ann0")
    clock.advance(5)
    again = store.submit(answer(pair.lease_id, "a", strength=1), annotator_id="ann0")
    assert (again.status, again.judgment) == ("duplicate", first.judgment)
    for other in (answer(pair.lease_id, "b", strength=1), answer(pair.lease_id, "a", strength=2), answer(pair.lease_id)):
        assert store.submit(other, annotator_id="ann0").status == "conflict"
    assert store.count_judgments() == 1


def test_a_lease_that_is_unknown_or_somebody_elses_is_unknown(store):
    fill(store)
    [pair] = store.lease("ann0", 1)
    assert store.submit(answer("nonsense"), annotator_id="ann0").status == "unknown"
    assert store.submit(answer(pair.lease_id), annotator_id="ann1").status == "unknown"
    store.submit(answer(pair.lease_id), annotator_id="ann0")
    assert store.submit(answer(pair.lease_id), annotator_id="ann1").status == "unknown"


def test_a_late_answer_counts_unless_the_slot_was_given_away(store, clock):
    fill(store, num_tasks=2)
    late, lost = store.lease("ann0", 2)
    clock.advance(LEASE_SECONDS + 1)
    assert store.submit(answer(late.lease_id), annotator_id="ann0").status == "stored"
    assert [pair.task_id for pair in store.lease("ann1", 5)] == ["t1"]
    assert store.submit(answer(lost.lease_id), annotator_id="ann0").status == "expired"
    assert store.count_judgments() == 1


def test_one_annotator_cannot_answer_a_task_through_an_old_and_a_new_lease(store, clock):
    fill(store, num_tasks=1, wanted=3)
    [old] = store.lease("ann0", 1)
    clock.advance(LEASE_SECONDS + 1)
    [new] = store.lease("ann0", 1)
    assert store.submit(answer(old.lease_id), annotator_id="ann0").status == "expired"
    assert store.submit(answer(new.lease_id), annotator_id="ann0").status == "stored"


def test_a_skip_frees_the_slot_for_another_and_never_returns(store):
    fill(store, num_tasks=1)
    judge(store, "ann0", "skip", reasons=("language",))
    assert store.lease("ann0", 1) == []
    assert len(store.open_tasks()) == 1
    judge(store, "ann1")
    assert store.open_tasks() == []
    assert [j.verdict for j in store.list_judgments()] == ["a", "skip"]
    assert store.count_judgments(decided_only=True) == 1


@pytest.mark.parametrize("wrong", [{"verdict": "left"}, {"verdict": "a", "strength": 4}, {"verdict": "a", "strength": -1}])
def test_answers_that_mean_nothing_are_refused(store, wrong):
    fill(store)
    [pair] = store.lease("ann0", 1)
    with pytest.raises(UserError, match="is not one of"):
        store.submit(JudgmentInput(lease_id=pair.lease_id, **wrong), annotator_id="ann0")
    assert store.count_judgments() == 0


def test_withdrawing_gives_the_same_pair_again(store):
    fill(store, num_tasks=1)
    [pair] = store.lease("ann0", 1)
    store.submit(answer(pair.lease_id, "a"), annotator_id="ann0")
    again = store.withdraw(pair.lease_id, annotator_id="ann0")
    assert again is not None
    assert (again.response_a_id, again.response_b_id) == (pair.response_a_id, pair.response_b_id)
    assert again.supersedes == pair.lease_id
    assert store.count_judgments() == 0
    assert store.lease("ann1", 1) == []  # the slot is still held
    second = store.submit(answer(again.lease_id, "b"), annotator_id="ann0").judgment
    assert second is not None and second.supersedes == pair.lease_id
    assert store.list_judgments() == [second]
    assert [e.subject for e in store.list_events(kind_prefix="judgment.")] == [pair.lease_id]


def test_withdrawing_twice_is_a_retry_until_the_pair_is_answered_anew(store):
    fill(store, num_tasks=1)
    first = judge(store, "ann0")
    again = store.withdraw(first, annotator_id="ann0")
    assert again is not None
    assert store.withdraw(first, annotator_id="ann0") == again
    store.submit(answer(again.lease_id), annotator_id="ann0")
    assert store.withdraw(first, annotator_id="ann0") is None
    assert len(store.list_events(kind_prefix="judgment.withdrawn")) == 1


def test_only_ones_own_judgment_can_be_withdrawn(store):
    fill(store)
    made = judge(store, "ann0")
    assert store.withdraw(made, annotator_id="ann1") is None
    assert store.withdraw("nonsense", annotator_id="ann0") is None
    assert store.count_judgments() == 1


def test_withdrawing_a_skip_needs_a_free_slot(store):
    fill(store, num_tasks=1)
    skipped = judge(store, "ann0", "skip")
    [taken] = store.lease("ann1", 1)
    assert store.withdraw(skipped, annotator_id="ann0") is None
    store.submit(answer(taken.lease_id, "skip"), annotator_id="ann1")
    assert store.withdraw(skipped, annotator_id="ann0") is not None


def test_seq_is_the_gapless_order_of_commits(store):
    fill(store, num_tasks=5)
    made = [judge(store, "ann0") for _ in range(5)]
    assert [(j.seq, j.id) for j in reversed(store.list_judgments())] == list(enumerate(made, start=1))
    assert store.count_judgments(since_seq=3) == 2
    assert [j.seq for j in store.list_judgments(annotator_id="ann0", limit=2)] == [5, 4]
    assert store.list_judgments(annotator_id="ann1") == []


def test_imported_judgments_fill_their_task(store):
    fill(store, num_tasks=1, wanted=1)
    values = {
        "seq": 99, "task_id": "t0", "annotator_id": "ann0", "prompt_id": "q0", "response_a_id": "q0-1", "response_b_id": "q0-2",
        "verdict": "tie", "strength": None, "aspects": {}, "rationale": None, "reasons": (), "edited_text": None,
        "shown_at": None, "submitted_at": START, "supersedes": None,
    }  # fmt: skip
    assert store.add_imported_judgments([Judgment(id="j1", **values), Judgment(id="j2", **values)]) == 2
    assert store.add_imported_judgments([Judgment(id="j1", **values)]) == 0
    assert [j.seq for j in store.list_judgments()] == [2, 1]
    assert store.lease("ann1", 1) == []


# After closing and opening again


def test_everything_is_there_after_opening_again(reopen, clock):
    store = reopen()
    fill(store, num_tasks=6, wanted=1)
    judge(store, "ann0", "a")
    judge(store, "ann0", "skip")  # t1
    withdrawn = judge(store, "ann0", "b")  # t2
    replacement = store.withdraw(withdrawn, annotator_id="ann0")
    [renewed, lapsed] = store.lease("ann1", 2)  # t1, t3
    clock.advance(LEASE_SECONDS - 1)
    store.renew([renewed.lease_id], "ann1")
    clock.advance(2)
    store.close_tasks(["t5"], actor="system", reason="test")
    before = store.list_judgments()
    store = reopen()
    assert store.list_judgments() == before
    # ann2 may have t2 and t3, whose leases have expired, and the untouched t4; t1 is renewed, t5 closed, t0 judged
    assert sorted(pair.task_id for pair in store.lease("ann2", 2)) == ["t2", "t3"]
    assert store.submit(answer(lapsed.lease_id), annotator_id="ann1").status == "expired"
    assert replacement is not None
    assert store.submit(answer(replacement.lease_id), annotator_id="ann0").status == "expired"
    assert store.submit(answer(renewed.lease_id), annotator_id="ann1").status == "stored"
    assert [pair.task_id for pair in store.lease("ann0", 9)] == ["t4"]


def test_a_lease_is_resumed_whole_after_opening_again(reopen):
    store = reopen()
    fill(store)
    [pair] = store.lease("ann0", 1)
    assert reopen().lease("ann0", 1, resume=True) == [pair]


def test_a_duplicate_is_recognised_after_opening_again(reopen):
    store = reopen()
    fill(store)
    store.set_campaign(Campaign(aspects=("clear",)), actor="rosa")
    made = judge(store, "ann0", "b", strength=2, reasons=("x",), aspects={"clear": 1})
    store = reopen()
    said = answer(made, "b", strength=2, reasons=("x",), aspects={"clear": 1})
    assert store.submit(said, annotator_id="ann0").status == "duplicate"
    assert store.submit(answer(made, "a"), annotator_id="ann0").status == "conflict"


# Policies and rounds


def test_status_of_policies_follows_the_events(store):
    for number in (0, 1, 2):
        store.add_policy(make_policy(number))
    assert store.serving_policy() is None

    def statuses():
        return [policy.status for policy in store.list_policies()]

    store.append_event(actor="system", kind="policy.promoted", subject="policy0")
    assert statuses() == ["serving", "candidate", "candidate"]
    store.append_event(actor="someone", kind="policy.promoted", subject="policy1")
    store.append_event(actor="someone", kind="policy.retired", subject="policy2")
    assert statuses() == ["retired", "serving", "retired"]
    store.append_event(actor="someone", kind="policy.promoted", subject="policy0")  # roll back
    assert statuses() == ["serving", "retired", "retired"]
    assert store.serving_policy() == store.get_policy("policy0")
    assert store.get_policy("nonsense") is None


def test_status_of_rounds_follows_the_events(store):
    def make(number):
        return Round(
            id=f"round{number}", number=number, kind="round", parent_policy_id="policy0", new_policy_id="policy1",
            job_dir=f"jobs/{number:04d}-round", settings={"seed": number, "update": {"rule": "onpo_ref"}}, created_at=START,
        )  # fmt: skip

    store.add_round(make(1))
    store.add_round(make(2))
    assert store.list_rounds() == [make(2), make(1)]
    store.append_event(actor="system", kind="round.interrupted", subject="round1", data={"message": "the process died"})
    assert store.get_round(1) == replace(make(1), status="interrupted", message="the process died")
    store.append_event(actor="someone", kind="round.resumed", subject="round1")
    assert store.get_round(1) == make(1)
    store.append_event(actor="system", kind="round.done", subject="round1", data={"message": "promoted"})
    assert store.get_round(1) == replace(make(1), status="done", message="promoted")
    assert store.get_round(2) == make(2)
    assert store.get_round(3) is None


def test_events_are_listed_by_kind_and_position(store):
    made = [
        store.append_event(actor="me", kind=kind, subject="s", data={"n": 1}) for kind in ("round.done", "policy.x", "round.y")
    ]
    assert store.list_events() == made
    assert store.list_events(kind_prefix="round.") == [made[0], made[2]]
    assert store.list_events(since_seq=1, limit=1) == [made[1]]


# People


def make_token(name="t1", **more):
    values = {
        "id": name, "sha256": "hash-" + name, "kind": "bearer", "name": name, "scope": "label", "user_id": None,
        "annotator_id": "ann0", "expires_at": None, "created_at": START,
    }  # fmt: skip
    return Token(**(values | more))


def test_tokens_are_found_until_revoked_or_expired(reopen, clock):
    store = reopen()
    lasting, short = make_token(), make_token("t2", expires_at=START + timedelta(seconds=60))
    store.add_token(lasting)
    store.add_token(short)
    assert store.find_token("hash-t1") == lasting
    assert store.find_token("hash-t2") == short
    assert store.find_token("nonsense") is None
    clock.advance(60)
    assert store.find_token("hash-t2") is None
    store.append_event(actor="me", kind="token.revoked", subject="t1")
    assert store.find_token("hash-t1") is None
    assert reopen().list_tokens() == [replace(lasting, revoked=True), short]


def test_a_sign_in_link_works_once(store):
    store.add_token(make_token(kind="signin", user_id="u1"))
    store.add_token(make_token("bearer"))
    assert store.use_signin_token("hash-bearer") is None
    used = store.use_signin_token("hash-t1")
    assert used is not None and used.id == "t1"
    assert store.use_signin_token("hash-t1") is None
    assert store.find_token("hash-t1") is None


def test_a_disabled_user_and_their_tokens_are_out(store):
    user = User(id="u1", name="Ada", role="researcher", annotator_id=None, created_at=START)
    store.add_user(user)
    store.add_token(make_token(user_id="u1"))
    assert store.get_user("u1") == user
    store.append_event(actor="me", kind="user.disabled", subject="u1")
    assert store.list_users() == [replace(user, disabled=True)]
    assert store.find_token("hash-t1") is None


def test_sessions_are_tokens_and_credentials_are_kept(reopen):
    store = reopen()
    store.add_token(make_token("s1", kind="session", user_id="u1"))
    password = Credential(id="c1", user_id="u1", kind="password", secret="$argon2id$one", created_at=START)
    identity = Credential(id="c2", user_id="u1", kind="oidc", secret="issuer subject", created_at=START)
    store.add_credential(password)
    store.add_credential(identity)
    with pytest.raises(UserError, match="already taken"):
        store.add_credential(replace(identity, id="c3"))
    store = reopen()
    assert store.list_credentials() == [password, identity]
    found = store.find_token("hash-s1")
    assert found is not None and found.kind == "session"


def test_annotators_are_found_by_handle(store):
    fill(store, num_annotators=2)
    assert [a.id for a in store.list_annotators()] == ["ann0", "ann1"]
    found = store.get_annotator("Annotator 1")
    assert found is not None and found.id == "ann1"
    assert store.get_annotator("nobody") is None


# Numbers and queries


def test_stats_count_what_stands(store, clock):
    fill(store, num_tasks=5)
    for verdict, seconds in (("a", 2), ("a", 4), ("b", 9)):
        [pair] = store.lease("ann0", 1)
        shown = clock()
        clock.advance(seconds)
        store.submit(answer(pair.lease_id, verdict, shown_at=shown), annotator_id="ann0")
    judge(store, "ann1", "skip")
    store.lease("ann1", 1)
    stats = store.stats()
    assert (stats["prompts"], stats["responses"], stats["judgments"]) == (5, 10, 4)
    assert (stats["tasks_open"], stats["leases_open"], stats["annotators_active_1h"]) == (2, 1, 2)
    assert stats["verdicts"] == {"a": 2, "b": 1, "tie": 0, "both_bad": 0, "skip": 1}
    assert stats["median_seconds_per_judgment"] == pytest.approx(4)  # of 2, 4, 9
    assert stats["first_shown_wins"] == pytest.approx(2 / 3)
    assert stats["judgments_per_hour"] == [["2026-01-02T03:00:00+00:00", 4]]
    assert [(row["handle"], row["judgments"], row["skips"]) for row in stats["by_annotator"]] == [
        ("Annotator 0", 3, 0),
        ("Annotator 1", 0, 1),
    ]
    assert json.loads(json.dumps(stats)) == stats  # the API sends it as it is


def test_queries_cannot_write(store):
    fill(store)
    with pytest.raises(Exception, match="read-only"):
        store.query("INSERT INTO renewals VALUES ('x', now(), now())")
    assert store.query("SELECT count(*) AS n FROM renewals")["n"].to_pylist() == [0]
    assert store.query("SELECT id FROM prompts WHERE id = $id", {"id": "q1"}).to_pylist() == [{"id": "q1"}]
