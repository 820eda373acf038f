"""The whole loop, headless: simulated annotators label through the HTTP API, rounds run, and the truth is measured.

What the learner sees is what people would give it: verdicts through leases. What it never sees is the world, which only
answers pairs here and scores samples of each policy on held-out prompts afterwards. Deterministic for a seed on one machine.
"""

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from annotate_app.attendant import REFIT_HEADS
from annotate_app.client import ApiClient, http_client
from annotate_app.commands.watching import follow
from annotate_app.pair_selection import MIX
from annotate_app.worlds import WORLDS, Person, World, answer_pair, true_duality_gap, true_win_rate
from storage.contract.jobs import artifact_dir, job_name
from storage.contract.schemas import RESPONSES
from storage.errors import UserError
from storage.ids import new_id
from storage.records import Annotator

REFIT_EVERY = 40  # labels, where the mix chooses pairs
NUM_TRUTH_SAMPLES = 512  # responses of a policy over all held-out prompts; every one meets all of the base's to its prompt
MIN_SAMPLES, MAX_SAMPLES = 4, 64  # per held-out prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to simulate."""

    world: str = "transitive"
    rounds: int = 3
    labels: int = 400  # per round; ties and both-bad count, skips do not
    annotators: int = 8
    seed: int = 0
    model: str = "tiny"
    prompts: Path | None = None
    selection: str = "random"
    settings: dict[str, Any] = field(default_factory=dict)  # of the round jobs, nested


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTruth:
    """One row of the result; round 0 is the base policy. Win rates are true ones, by sampling."""

    round: int
    win_rate_vs_base: float
    win_rate_low: float
    win_rate_high: float
    true_duality_gap: float
    average_gap: float  # of all policies since the first round, one drawn for each response: the averaged iterate
    kl_to_base_nats: float
    text_quality: float | None
    labels: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySamples:
    """Responses of one policy by held-out prompt, and what its evaluate job said of it."""

    by_prompt: dict[str, list[str]]
    kl_to_base_nats: float
    text_quality: float | None


Say = Callable[[str], None]


def simulate(plan: Plan, data_dir: Path, *, say: Say = lambda text: None) -> Iterator[RoundTruth]:
    """Yields the truth about the base policy, then about the serving policy after each round."""
    started = time.monotonic()
    say(f"starting: model {plan.model}, world {plan.world}, {plan.annotators} annotators, seed {plan.seed}")
    with _running_app(plan, data_dir, say) as loop:
        loop.wait(next(job["number"] for job in loop.client.get("/rounds")["rounds"] if job["kind"] == "generate"))
        base = policy = loop.sample(0, round_number=0)
        played: list[PolicySamples] = []
        yield _truth(loop.world, [policy], base, round_number=0, labels=0, seconds=time.monotonic() - started)
        for number in range(1, plan.rounds + 1):
            started = time.monotonic()
            labels = loop.label(number)
            if labels < plan.labels:
                say(f"round {number}: only {labels} of {plan.labels} labels, every pair was judged")
            promoted = loop.run_round(number)
            policy = policy if promoted is None else loop.sample(promoted, round_number=number)
            played.append(policy)
            seconds = time.monotonic() - started
            yield _truth(loop.world, played, base, round_number=number, labels=labels, seconds=seconds)


class Labeller:
    """One simulated annotator with a token of their own."""

    def __init__(self, client: ApiClient, person: Person, rng: random.Random) -> None:
        self.client, self.person, self.rng = client, person, rng

    def lease(self) -> dict[str, Any] | None:
        """The next pair for this annotator, None when nothing is left."""
        leases = self.client.post("/leases", {"count": 1})["leases"]
        return leases[0] if leases else None

    def judge(self, lease: dict[str, Any], world: World) -> str:
        """Answer a leased pair; returns the verdict."""
        answer = answer_pair(world, self.person, lease["response_a"]["text"], lease["response_b"]["text"], self.rng)
        body: dict[str, Any] = {"lease_id": lease["lease_id"], "verdict": answer.verdict}
        if answer.strength is not None:
            body["strength"] = answer.strength
        self.client.post("/judgments", body)
        return answer.verdict


def label_pairs(labellers: Sequence[Labeller], world: World, num_labels: int) -> int:
    """Annotators take turns until ``num_labels`` verdicts other than skip are given or nothing is left; returns their number."""
    turns, given = deque(labellers), 0
    while turns and given < num_labels:
        labeller = turns.popleft()
        lease = labeller.lease()
        if lease is None:  # for this annotator; others may not have seen everything
            continue
        given += labeller.judge(lease, world) != "skip"
        turns.append(labeller)
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """The running app and everyone who calls it."""

    plan: Plan
    data_dir: Path
    client: ApiClient  # scope admin
    labellers: list[Labeller]
    num_heldout: int
    say: Say

    @property
    def world(self) -> World:
        return WORLDS[self.plan.world]()

    def settings(self, round_number: int) -> dict[str, Any]:
        """The plan's settings with a seed of this round's own, so that rounds do not share their random numbers."""
        return {**self.plan.settings, "seed": 1000 * self.plan.seed + round_number}

    def wait(self, job: int, *, name: str = "") -> dict[str, Any]:
        """Follow a job to its end; returns its record. UserError if it ended without a report."""
        follow(self.client, job, on_stage=lambda p: self.say(f"{name or p['kind']}: {p['stage']}"))
        record = self.client.get(f"/rounds/{job}")
        if record["status"] not in ("done", "failed") or (record["status"] == "failed" and not record["new_policy"]):
            raise UserError(f"{record['kind']} job {job} ended as {record['status']}: {record.get('message')}")
        return record

    def label(self, round_number: int) -> int:
        """Collect the round's labels; where the mix chooses pairs, the preference model is fitted anew after every batch."""
        batch = REFIT_EVERY if self.plan.selection == MIX else self.plan.labels
        given = 0
        while given < self.plan.labels:
            wanted = min(batch, self.plan.labels - given)
            got = label_pairs(self.labellers, self.world, wanted)
            given += got
            if got < wanted:
                break
            if given < self.plan.labels:
                settings = self.settings(round_number)
                settings["preference"] = {**settings.get("preference", {}), "num_heads": REFIT_HEADS}
                self.wait(self.client.post("/jobs", {"kind": "fit", "settings": settings})["number"])
        return given

    def run_round(self, number: int) -> int | None:
        """Run a round; its policy serves, also where the gate would hold it. None if it left a limit and was not promoted."""
        body = {"settings": self.settings(number), "promote": "manual", "selection": self.plan.selection}
        record = self.wait(self.client.post("/rounds", body)["number"], name=f"round {number}")
        report = self.client.get(f"/rounds/{record['number']}/report")
        if report["status"] == "failed":
            self.say(f"round {number} failed, its policy is not promoted: {' '.join(report['reasons'])}")
            return None
        reason = "simulation: every policy that kept its limits serves"
        self.client.post(f"/policies/{record['new_policy']}/promote", {"reason": reason})
        picked = report.get("picked", {})
        chosen = ", ".join(f"{k} {picked[k]}" for k in ("rule", "step_size", "kl_coef", "learning_rate") if k in picked)
        self.say(f"round {number}: policy {record['new_policy']} serves ({chosen}); {record.get('message') or ''}")
        return record["new_policy"]

    def sample(self, policy: int, *, round_number: int) -> PolicySamples:
        """Run an evaluate job for a policy and read its sealed samples and figures."""
        settings = self.settings(round_number)
        per_prompt = min(max(-(-NUM_TRUTH_SAMPLES // max(self.num_heldout, 1)), MIN_SAMPLES), MAX_SAMPLES)
        evaluation = {**settings.get("evaluation", {}), "num_responses": per_prompt}
        body = {"kind": "evaluate", "policy": policy, "settings": {**settings, "evaluation": evaluation}}
        job = self.wait(self.client.post("/jobs", body)["number"])["number"]
        figures = self.client.get(f"/rounds/{job}/report")["evaluation"]
        artifact = artifact_dir(self.data_dir / "jobs" / job_name(job, "evaluate"))
        return PolicySamples(
            by_prompt=read_samples(artifact / "responses.parquet"),
            kl_to_base_nats=figures["kl_to_base_nats"]["mean"],
            text_quality=figures.get("text_quality"),
        )


@contextmanager
def _running_app(plan: Plan, data_dir: Path, say: Say) -> Iterator[_Loop]:
    """The real app on a free port, a client with admin scope and the annotators, each with a token."""
    from annotate_app.commands.compose import admin_token, build_api, open_context
    from annotate_app.labelling_queue import QueueOptions
    from annotate_app.server import serve_in_background
    from annotate_app.warm_learner import warm_learner

    queue = QueueOptions(selection=plan.selection, seed=plan.seed)
    with ExitStack() as stack:
        command = stack.enter_context(warm_learner())
        rounds_options = {"model": plan.model, "queue": queue, "command": command}
        opened = open_context(data_dir, create=True, prompts=plan.prompts, seed=plan.seed, stop_jobs=True, **rounds_options)
        context = stack.enter_context(opened)
        context.rounds.ensure_started()
        url = stack.enter_context(serve_in_background(build_api(context)))
        client = stack.enter_context(http_client(url, stack.enter_context(admin_token(context.store))))
        labellers = []
        for k, person in enumerate(WORLDS[plan.world]().people(plan.annotators, plan.seed)):
            name = f"simulated-{k + 1:02d}"
            annotator = Annotator(id=new_id(), handle=name, kind="simulated", created_at=datetime.now(UTC))
            context.store.add_annotator(annotator)
            token = client.post("/tokens", {"name": name, "scope": "label", "annotator": name})["token"]
            own = stack.enter_context(http_client(url, token))
            labellers.append(Labeller(own, person, random.Random(f"{plan.seed} {name}")))
        num_heldout = len(context.store.list_prompts("heldout"))
        yield _Loop(plan=plan, data_dir=data_dir, client=client, labellers=labellers, num_heldout=num_heldout, say=say)


def read_samples(path: Path) -> dict[str, list[str]]:
    """Texts by prompt id, prompts in order."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for row in pq.read_table(path, schema=RESPONSES, columns=["prompt_id", "text"]).to_pylist():
        by_prompt[row["prompt_id"]].append(row["text"])
    return dict(sorted(by_prompt.items()))


def _truth(
    world: World, played: Sequence[PolicySamples], base: PolicySamples, *, round_number: int, labels: int, seconds: float
) -> RoundTruth:
    """The truth about the last of the policies that were played, and about all of them as one mixture."""
    ours = played[-1]
    mine, theirs = list(ours.by_prompt.values()), [base.by_prompt[prompt] for prompt in ours.by_prompt]
    rate = true_win_rate(world, mine, theirs)
    searched = [sorted({*a, *b}) for a, b in zip(mine, theirs, strict=True)]
    mixture = [[text for policy in played for text in policy.by_prompt[prompt]] for prompt in ours.by_prompt]
    return RoundTruth(
        round=round_number,
        win_rate_vs_base=rate.mean,
        win_rate_low=rate.low,
        win_rate_high=rate.high,
        true_duality_gap=true_duality_gap(world, mine, searched),
        average_gap=true_duality_gap(world, mixture, searched),
        kl_to_base_nats=ours.kl_to_base_nats,
        text_quality=ours.text_quality,
        labels=labels,
        seconds=seconds,
    )
