"""Small records for storage tests: one policy, prompts q0.., two responses each, one task each, annotators ann0.. ."""

from datetime import UTC, datetime, timedelta
from typing import Any

from storage.records import Annotator, JudgmentInput, Message, Policy, Prompt, Response, Task
from storage.store import Store

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_policy(number: int = 0, **more: Any) -> Policy:
    values = {
        "id": f"policy{number}", "number": number, "base_model": "tiny", "base_revision": None, "adapter_path": None,
        "adapter_sha256": None, "parent_id": None, "round_id": None, "created_at": START,
    }  # fmt: skip
    return Policy(**(values | more))


def make_prompt(name: str, *, split: str = "train", text: str | None = None) -> Prompt:
    messages = (Message(role="user", content=text or f"Question {name}?"),)
    return Prompt(id=name, messages=messages, split=split, source="test", tags=("a tag",), created_at=START)


def make_response(name: str, prompt_id: str, **more: Any) -> Response:
    values = {
        "id": name, "prompt_id": prompt_id, "policy_id": "policy0", "text": f"Answer {name}.", "token_ids": (5, 2),
        "sum_logp": -1.5, "finish_reason": "stop", "sampler": {"temperature": 1.0}, "seed": 7, "role": "candidate",
        "created_at": START,
    }  # fmt: skip
    return Response(**(values | more))


def make_task(name: str, prompt_id: str, first: str, second: str, **more: Any) -> Task:
    values = {
        "id": name, "prompt_id": prompt_id, "response_1_id": first, "response_2_id": second, "selection_rule": "random",
        "selection_score": 0.25, "selection_prob": 0.5, "created_at": START,
    }  # fmt: skip
    return Task(**(values | more))


def fill(store: Store, num_tasks: int = 3, num_annotators: int = 3, **task: Any) -> None:
    """Prompts q0.., responses q0-1 and q0-2.., tasks t0.. in that order, annotators ann0.. ."""
    prompts = [f"q{i}" for i in range(num_tasks)]
    store.add_policy(make_policy())
    store.add_prompts([make_prompt(name) for name in prompts])
    store.add_responses([make_response(f"{name}-{k}", name) for name in prompts for k in (1, 2)])
    store.add_tasks([make_task(f"t{i}", f"q{i}", f"q{i}-1", f"q{i}-2", **task) for i in range(num_tasks)])
    for i in range(num_annotators):
        store.add_annotator(Annotator(id=f"ann{i}", handle=f"Annotator {i}", kind="human", created_at=START))


def judge(store: Store, annotator_id: str, verdict: str = "a", **more: Any) -> str:
    """Lease the next pair, answer it, and return the judgment's id."""
    [pair] = store.lease(annotator_id, 1)
    answer = JudgmentInput(lease_id=pair.lease_id, verdict=verdict, **more)  # pyright: ignore[reportArgumentType]
    assert store.submit(answer, annotator_id=annotator_id).status == "stored"
    return pair.lease_id
