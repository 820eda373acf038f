"""What an update holds in memory, found before it runs: weights, the adapter with its optimiser, and activations by token.

Activations are measured, not modelled: the tensors that a few responses of the data leave for the way back are counted, so
that any architecture has its own figure.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.groups import Groups
from online_learner.policy.step import group_sizes

SHARE = 0.6  # of the free memory: other work goes on beside the update, and matrix products need workspace
TOKENS_MEASURED = 128
UNKNOWN_BYTES = 4 * 2**30  # free memory where the system does not tell
COPIES_OF_A_TRAINED_WEIGHT = 4  # itself, its gradient and AdamW's two moments
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes, and the tokens whose activations fit at once."""

    weights: int
    adapter: int
    per_token: float
    free: int
    tokens: int
    largest_group: int  # tokens; with less room than that, responses are forwarded twice

    def sentence(self) -> str:
        """For the log of a run."""
        return (
            f"memory: {self.weights / MIB:.0f} MiB of weights, {self.adapter / MIB:.1f} MiB for the adapter and its optimiser, "
            f"{self.per_token / 1024:.0f} KiB of activations a token; {self.free / MIB:.0f} MiB are free, so "
            f"{self.tokens} tokens fit at once; the largest prompt with its responses has {self.largest_group}"
        )


def plan_memory(model: Any, groups: Groups) -> MemoryPlan:
    """Count what the model holds and measure what a token leaves; the adapter's gradients and moments are not there yet."""
    parameters = list(model.parameters())
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    device = parameters[0].device
    free = free_bytes(device)
    adapter = COPIES_OF_A_TRAINED_WEIGHT * trained
    per_token = activation_bytes(model, groups.sequences)
    return MemoryPlan(
        weights=sum(p.numel() * p.element_size() for p in parameters) - trained,
        adapter=adapter,
        per_token=per_token,
        free=free,
        tokens=max(1, int((SHARE * free - adapter) / per_token)),
        largest_group=max(group_sizes(groups), default=0),
    )


def activation_bytes(model: Any, sequences: list[TokenisedResponse]) -> float:
    """Bytes that the forward of some of these responses keeps for the way back, a token of prompt and response."""
    some: list[TokenisedResponse] = []
    for sequence in sequences:
        if some and sum(other.length for other in some) + sequence.length > TOKENS_MEASURED:
            break
        some.append(sequence)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def on_save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(on_save, lambda tensor: tensor):
        logps = response_logps(model, some)
    del logps
    return max(1, sum(kept.values())) / max(1, sum(sequence.length for sequence in some))


def free_bytes(device: torch.device) -> int:
    """Memory that a process may still take: of the device, or of the machine within the limits of its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [value for value in (_available(), _left_in_container()) if value is not None]
    return min(found, default=UNKNOWN_BYTES)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Limit minus use of this control group (version 2), None where there is no limit."""
    try:
        limit, used = ((root / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
