"""One update by several processes, started by torchrun: the first runs the job, the others compute their share of each step.

The leader sends its trained weights and the responses of a step. Everyone forwards its share of the responses; the leader turns
all log-probabilities into the gradient of the loss in them; everyone goes back through its share; the gradients are added up.
Nothing but the leader knows rules, schedules or files, so that no two processes can come to different decisions.
"""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from online_learner.logps import TokenisedResponse
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.base_model import BaseModel
from online_learner.policy.step import StepLoss, add_by_response
from storage.errors import UserError

PATIENCE = timedelta(days=14)  # helpers wait while the leader samples and measures


def run_together(lead: Callable[[], int], load_base: Callable[[], BaseModel]) -> int:
    """In the first process ``lead``; in the others load the base model and help until it is done. The exit code."""
    several = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(several, timeout=PATIENCE)
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    if dist.get_rank() > 0:
        return _help(load_base().model)
    logging.getLogger(__name__).info("%d processes share the update", dist.get_world_size())
    try:
        return lead()
    finally:
        with suppress(RuntimeError):  # a helper that is gone need not be told
            _tell({"kind": "end"})
        dist.destroy_process_group()


class Team:
    """The leader's side of the steps of one fit."""

    def __init__(self, adapter: TrainedAdapter) -> None:
        self._model, self._trained = adapter.model, adapter.parameters()
        config = adapter.model.peft_config["default"]
        numbers = sum(parameter.numel() for parameter in self._trained)
        _tell({"kind": "fit", "rank": config.r, "alpha": config.lora_alpha, "numbers": numbers})

    def add_gradient(self, loss: StepLoss, tokens: int) -> float:
        """Add the step's gradient to that of the trained weights, which had none; the loss."""
        _tell({"kind": "step", "sequences": loss.sequences, "tokens": tokens})
        _step(self._model, self._trained, loss.sequences, tokens, loss.gradient)
        return loss.value


def gather_team(adapter: TrainedAdapter) -> Team | None:
    """A team to fit this adapter with, None for a process that is alone."""
    return Team(adapter) if dist.is_initialized() and dist.get_world_size() > 1 else None


def shares(sequences: Sequence[TokenisedResponse], size: int) -> list[list[int]]:
    """Rows for each of ``size`` processes, about as many tokens each; responses to one prompt stay together."""
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        of_prompt.setdefault(tuple(sequence.prompt_ids), []).append(row)
    tokens = {prompt: len(prompt) + sum(len(sequences[row].response_ids) for row in rows) for prompt, rows in of_prompt.items()}
    found: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for prompt in sorted(of_prompt, key=lambda prompt: (-tokens[prompt], prompt)):
        least = load.index(min(load))
        found[least] += of_prompt[prompt]
        load[least] += tokens[prompt]
    return [sorted(rows) for rows in found]


def _help(base: nn.Module) -> int:
    adapter: TrainedAdapter | None = None
    while True:
        told = _hear()
        if told["kind"] == "end":
            dist.destroy_process_group()
            return 0
        if told["kind"] == "fit":
            adapter = TrainedAdapter(base, rank=told["rank"], alpha=told["alpha"], parent=None, seed=0)
            numbers = sum(parameter.numel() for parameter in adapter.parameters())
            if numbers != told["numbers"]:
                raise UserError(
                    f"The parent's adapter has {told['numbers']} weights where one made here has {numbers}: it lies on other "
                    "layers. Start the round in one process, without torchrun."
                )
        elif adapter is not None:
            sequences = [TokenisedResponse(tuple(prompt), tuple(response)) for prompt, response in told["sequences"]]
            adapter.model.zero_grad(set_to_none=True)
            _step(adapter.model, adapter.parameters(), sequences, told["tokens"], None)


def _step(
    model: Any,
    trained: Sequence[nn.Parameter],
    sequences: Sequence[TokenisedResponse],
    tokens: int,
    gradient_of: Callable[[Tensor], Tensor] | None,
) -> None:
    """One process's part of a step; ``gradient_of`` is the leader's, from all log-probabilities to the gradient in them (B,)."""
    _send_weights(trained)
    own = shares(sequences, dist.get_world_size())[dist.get_rank()]

    def exchange(logps: Tensor) -> Tensor:
        whole = logps.new_zeros(len(sequences))
        whole[own] = logps
        dist.all_reduce(whole)
        gradient = torch.zeros_like(whole) if gradient_of is None else gradient_of(whole).to(whole)
        dist.broadcast(gradient, 0)
        return gradient[own]

    if own:
        add_by_response(model, [sequences[row] for row in own], exchange, tokens)
    else:
        exchange(trained[0].new_zeros(0))
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    dist.all_reduce(flat)
    for parameter, part in zip(trained, _cut(flat, trained), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _send_weights(trained: Sequence[nn.Parameter]) -> None:
    """The leader's trained weights to everyone."""
    with torch.no_grad():
        flat = torch.cat([parameter.flatten() for parameter in trained])
        dist.broadcast(flat, 0)
        for parameter, part in zip(trained, _cut(flat, trained), strict=True):
            parameter.copy_(part.view_as(parameter))


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    ends = [0]
    for tensor in like:
        ends.append(ends[-1] + tensor.numel())
    return [flat[start:end] for start, end in pairwise(ends)]


def _tell(message: dict[str, Any]) -> None:
    """A message of the leader to all others, as JSON."""
    data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
    dist.broadcast(torch.tensor([len(data)]), 0)
    dist.broadcast(data, 0)


def _hear() -> dict[str, Any]:
    size = torch.zeros(1, dtype=torch.long)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return json.loads(bytes(data.tolist()))
