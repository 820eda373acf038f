"""The two sides of ``bench learner``, this learner and TRL: each in its own process that does the same work when it is told."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from online_learner.bench_learner_work import ALPHA, BETA, RANK, Run, Work, load_base, reward, schedule_of, start_clock
from online_learner.generation.registry import GENERATION_BACKENDS
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import PolicyScorer, TrainedAdapter
from online_learner.policy.groups import Group, Groups, collate
from online_learner.policy.objective import Objective
from online_learner.policy.train import fit
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule
from storage.contract.settings import GenerationSettings


def ours(directory: Path, work: Work) -> Callable[[], Run]:
    """Anchors once, then the fit that a round runs, by the rule of DPO; the online step samples first."""
    base = load_base(directory)
    end = base.generation_config.eos_token_id
    adapter = TrainedAdapter(base, rank=RANK, alpha=ALPHA, parent=directory / "start", seed=0)
    start, scorer = adapter.state(), None if work.responses else PolicyScorer(base)
    objective = Objective(rule=get_rule("dpo"), settings=RuleSettings(beta=BETA))

    def run() -> Run:
        adapter.restore(start)
        losses: list[float] = []
        norms: list[float] = []
        phases: dict[str, float] = {}

        def on_step(step: int, num_steps: int, loss: float, gradient_norm: float) -> None:
            losses.append(loss)
            norms.append(gradient_norm)

        clock = start_clock()
        with _timed(phases, "sample"):
            responses = _sampled(scorer.use(adapter.deltas()), work, end) if scorer else work.responses
        groups = _groups(work.prompts, responses)
        with _timed(phases, "anchors"), torch.no_grad():
            anchors = groups.spread(response_logps(base, groups.sequences))
        with _timed(phases, "update"):
            fit(adapter, objective, groups, anchors, schedule_of(work), on_step)
        times = clock()
        return Run(
            seconds=times["seconds"],
            cpu_seconds=times["cpu_seconds"],
            losses=losses,
            gradient_norms=norms,
            phases=phases,
            response_tokens=sum(len(response) for own in responses for response in own),
        )

    return run


def _trl(directory: Path, work: Work) -> Callable[[], Run]:
    from online_learner.bench_learner_trl import train_with_trl

    return lambda: train_with_trl(directory, work)


@contextlib.contextmanager
def _timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Adds a phase's seconds of the processor."""
    began = time.process_time()
    yield
    phases[name] = time.process_time() - began


ARMS: dict[str, Callable[[Path, Work], Callable[[], Run]]] = {"ours": ours, "trl": _trl}


def serve(arm: str, directory: Path) -> None:
    """Run the arm's work for every line on standard input and answer with one JSON line; ends when the input does."""
    work = Work.load(directory)
    torch.set_num_threads(work.threads)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        run = ARMS[arm](directory, work)
        for _ in sys.stdin:
            in_use = restart_peak()
            found = asdict(run()) | {"start_mib": in_use, "peak_mib": status_mib("VmHWM")}
            print(json.dumps(found), file=answers, flush=True)


def _groups(prompts: list[list[int]], responses: list[list[list[int]]]) -> Groups:
    """Every prompt with all pairs of its responses; of two, the one that stands first has won."""
    groups, sequences = [], {}
    for n, own in enumerate(responses):
        ids = [f"{n}/{k}" for k in range(len(own))]
        wins = torch.full((len(own), len(own)), 0.5) + 0.5 * torch.ones(len(own), len(own)).triu(1)
        wins -= 0.5 * torch.ones(len(own), len(own)).tril(-1)
        groups.append(Group(prompt_id=str(n), response_ids=ids, preferences=wins, weights=torch.ones_like(wins).triu(1)))
        for name, response in zip(ids, own, strict=True):
            sequences[name] = TokenisedResponse(tuple(prompts[n]), tuple(response))
    return collate(groups, sequences)


def _sampled(model: Any, work: Work, end: int) -> list[list[list[int]]]:
    """Responses of the policy to every prompt, the best one first."""
    prompts, k = [tuple(prompt) for prompt in work.prompts], work.num_responses
    settings = GenerationSettings.model_validate({"num_responses": k, "max_new_tokens": work.max_new_tokens})
    sample, context = GENERATION_BACKENDS["transformers"], model.config.max_position_embeddings
    found = sample(model, prompts, num_responses=k, settings=settings, end_ids=(end,), context=context, seed=0)
    return [sorted((list(one.token_ids) for one in own), key=reward, reverse=True) for own in found]


def restart_peak() -> float:
    """Forget the peak of this process's memory; MiB in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def status_mib(name: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
