"""The two sides of ``bench learner``: this learner and TRL, each in a process of its own that runs the same work when it is told.

An arm gives the seconds of one run and, for each optimiser step, its loss and the norm of its gradient before clipping, by which
the two can be seen to do the same.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_learner.bench_learner_work import ALPHA, RANK, Work, reward, text_of
from online_learner.generation.registry import GENERATION_BACKENDS
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import WEIGHTS, PolicyScorer, TrainedAdapter, linear_layers
from online_learner.policy.groups import Group, Groups, collate
from online_learner.policy.objective import Objective
from online_learner.policy.train import CLIP_NORM, Schedule, fit
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule
from storage.contract.settings import GenerationSettings

BETA = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed run."""

    seconds: float
    cpu_seconds: float  # of all threads: what the work costs, however busy the machine is
    losses: list[float]
    gradient_norms: list[float]


def ours(directory: Path, work: Work) -> Callable[[], Run]:
    """Anchors once, then the fit that a round runs, by the rule of DPO; the online step samples first."""
    base = _base(directory)
    end = base.generation_config.eos_token_id
    adapter = TrainedAdapter(base, rank=RANK, alpha=ALPHA, parent=directory / "start", seed=0)
    start, scorer = adapter.state(), PolicyScorer(base) if work.case == "online-step" else None

    def run() -> Run:
        adapter.restore(start)
        losses: list[float] = []
        norms: list[float] = []

        def on_step(step: int, num_steps: int, loss: float, gradient_norm: float) -> None:
            losses.append(loss)
            norms.append(gradient_norm)

        clock = _clock()
        responses = work.responses or _sampled(scorer, adapter, work, end)
        groups = _groups(work.prompts, responses)
        with torch.no_grad():
            anchors = groups.spread(response_logps(base, groups.sequences))
        objective = Objective(rule=get_rule("dpo"), settings=RuleSettings(beta=BETA))
        fit(
            adapter,
            objective,
            groups,
            anchors,
            replace(_schedule(work), in_order=True),
            on_step,
        )
        return Run(**clock(), losses=losses, gradient_norms=norms)

    return run


def trl(directory: Path, work: Work) -> Callable[[], Run]:
    """TRL's trainer on the same tokens in the same order, with the same optimiser and rates; its time is that of train()."""
    import datasets

    datasets.disable_progress_bars()
    return lambda: _train_with_trl(directory, work)


ARMS: dict[str, Callable[[Path, Work], Callable[[], Run]]] = {"ours": ours, "trl": trl}


def serve(arm: str, directory: Path) -> None:
    """Run the arm's work for every line on standard input and answer with one JSON line; ends when the input does."""
    work = Work.load(directory)
    torch.set_num_threads(work.threads)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        run = ARMS[arm](directory, work)
        for _ in sys.stdin:
            in_use = _restart_peak()
            found = asdict(run()) | {"start_mib": in_use, "peak_mib": _status_mib("VmHWM")}
            print(json.dumps(found), file=answers, flush=True)


def _clock() -> Callable[[], dict[str, float]]:
    """Seconds since now, by the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    return lambda: {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}


def _schedule(work: Work) -> Schedule:
    return Schedule(epochs=1, groups_per_step=work.prompts_per_step, learning_rate=work.learning_rate, seed=0)


def _base(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32).eval().requires_grad_(False)


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


def _sampled(scorer: PolicyScorer | None, adapter: TrainedAdapter, work: Work, end: int) -> list[list[list[int]]]:
    """Two responses of the policy to every prompt, the better one first."""
    assert scorer is not None
    settings = GenerationSettings.model_validate({"num_responses": 2, "max_new_tokens": work.max_new_tokens})
    sample = GENERATION_BACKENDS["transformers"]
    model, prompts = scorer.use(adapter.deltas()), [tuple(prompt) for prompt in work.prompts]
    context = model.config.max_position_embeddings
    found = sample(model, prompts, num_responses=2, settings=settings, end_ids=(end,), context=context, seed=0)
    return [sorted((list(one.token_ids) for one in pair), key=reward, reverse=True) for pair in found]


def _train_with_trl(directory: Path, work: Work) -> Run:
    from peft import LoraConfig

    base = _base(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=linear_layers(base), lora_dropout=0.0, task_type="CAUSAL_LM"
    )  # as TrainedAdapter makes it
    make = _online_trainer if work.case == "online-step" else _pair_trainer
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make(work, scratch, model=base, processing_class=tokenizer, peft_config=lora)
        _take_over(trainer, directory, work)
        clock = _clock()
        trainer.train()
        times = clock()
    steps = [row for row in trainer.state.log_history if "grad_norm" in row]
    return Run(**times, losses=[row["loss"] for row in steps], gradient_norms=[float(row["grad_norm"]) for row in steps])


def _common_arguments(work: Work, scratch: str) -> dict[str, Any]:
    return {
        "output_dir": scratch, "num_train_epochs": 1, "beta": BETA, "max_grad_norm": CLIP_NORM,
        "learning_rate": work.learning_rate, "max_length": 1_000_000, "gradient_checkpointing": False, "bf16": False,
        "use_cpu": True, "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def _pair_trainer(work: Work, scratch: str, **parts: Any) -> Any:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    end = parts["model"].config.eos_token_id
    texts = [[text_of(response, end) for response in own] for own in work.responses]
    rows = [{"prompt": text_of(work.prompts[n], end), "chosen": texts[n][i], "rejected": texts[n][j]} for n, i, j in work.pairs()]
    in_step = work.prompts_per_step * (len(rows) // len(work.prompts))
    arguments = DPOConfig(per_device_train_batch_size=in_step, **_common_arguments(work, scratch))
    return DPOTrainer(args=arguments, train_dataset=Dataset.from_list(rows), **parts)


def _online_trainer(work: Work, scratch: str, **parts: Any) -> Any:
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    end = parts["model"].config.eos_token_id
    arguments = OnlineDPOConfig(
        per_device_train_batch_size=work.prompts_per_step,
        max_new_tokens=work.max_new_tokens,
        temperature=1.0,
        **_common_arguments(work, scratch),
    )

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [reward(ids) for ids in completion_ids]

    rows = Dataset.from_list([{"prompt": text_of(prompt, end)} for prompt in work.prompts])
    return OnlineDPOTrainer(args=arguments, train_dataset=rows, reward_funcs=rewards, **parts)


def _take_over(trainer: Any, directory: Path, work: Work) -> None:
    """The same starting adapter, optimiser and learning rates as ours."""
    start = load_file(directory / "start" / WEIGHTS)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(start[name.replace(".default.", ".")])
    schedule = _schedule(work)
    num_steps = schedule.num_steps(len(work.prompts))
    parameters: list[nn.Parameter] = list(trained.values())
    trainer.optimizer = torch.optim.AdamW(parameters, lr=work.learning_rate, weight_decay=0.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda step: schedule.rate(min(step, num_steps - 1), num_steps) / work.learning_rate
    )


def _restart_peak() -> float:
    """Forget the peak of this process's memory; MiB in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _status_mib(name: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
