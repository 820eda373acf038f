"""TRL's side of ``bench learner``: its trainers on the same tokens in the same order, with the same optimiser and rates."""

import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from online_learner.bench_learner_work import ALPHA, BETA, RANK, Run, Work, load_base, reward, schedule_of, start_clock, text_of
from online_learner.policy.adapters import WEIGHTS, linear_layers
from online_learner.policy.train import CLIP_NORM

datasets.disable_progress_bars()


def train_with_trl(directory: Path, work: Work) -> Run:
    """One run; its time is that of train(), without tokenising and loading."""

    base = load_base(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=linear_layers(base), lora_dropout=0.0, task_type="CAUSAL_LM"
    )  # as TrainedAdapter makes it
    make = _online_trainer if work.case == "online-step" else _pair_trainer
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make(work, scratch, model=base, processing_class=tokenizer, peft_config=lora)
        _take_over(trainer, directory, work)
        clock = start_clock()
        trainer.train()
        times = clock()
    steps = [row for row in trainer.state.log_history if "grad_norm" in row]
    losses, norms = [row["loss"] for row in steps], [float(row["grad_norm"]) for row in steps]
    return Run(
        seconds=times["seconds"],
        cpu_seconds=times["cpu_seconds"],
        losses=losses,
        gradient_norms=norms,
        phases={},
        response_tokens=0,
    )


def _common_arguments(work: Work, scratch: str) -> dict[str, Any]:
    return {
        "output_dir": scratch, "num_train_epochs": 1, "beta": BETA, "max_grad_norm": CLIP_NORM,
        "learning_rate": work.learning_rate, "max_length": 1_000_000, "gradient_checkpointing": False, "bf16": False,
        "use_cpu": True, "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def _pair_trainer(work: Work, scratch: str, **parts: Any) -> Any:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    end = parts["model"].config.eos_token_id
    texts = [[text_of(response, end) for response in own] for own in work.responses]
    rows = [{"prompt": text_of(work.prompts[n], end), "chosen": texts[n][i], "rejected": texts[n][j]} for n, i, j in work.pairs()]
    in_step = work.prompts_per_step * (len(rows) // len(work.prompts))
    arguments = DPOConfig(per_device_train_batch_size=in_step, **_common_arguments(work, scratch))
    return DPOTrainer(args=arguments, train_dataset=datasets.Dataset.from_list(rows), **parts)


def _online_trainer(work: Work, scratch: str, **parts: Any) -> Any:
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

    rows = datasets.Dataset.from_list([{"prompt": text_of(prompt, end)} for prompt in work.prompts])
    return OnlineDPOTrainer(args=arguments, train_dataset=rows, reward_funcs=rewards, **parts)


def _take_over(trainer: Any, directory: Path, work: Work) -> None:
    """The same starting adapter, optimiser and learning rates as ours."""
    start = load_file(directory / "start" / WEIGHTS)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(start[name.replace(".default.", ".")])
    schedule = schedule_of(work)
    num_steps = schedule.num_steps(len(work.prompts))
    parameters: list[nn.Parameter] = list(trained.values())
    trainer.optimizer = torch.optim.AdamW(parameters, lr=work.learning_rate, weight_decay=0.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda step: schedule.rate(min(step, num_steps - 1), num_steps) / work.learning_rate
    )
