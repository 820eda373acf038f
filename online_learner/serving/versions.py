"""The policies a server holds: each name is one adapter for good, and goes only when its last request is done."""

import copy
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from online_learner.logps import token_logps
from online_learner.policy.adapters import CONFIG, WEIGHTS, adapter_deltas
from online_learner.policy.base_model import BaseModel
from online_learner.serving.batch import Batch, Row
from storage.errors import UserError

MOST_ROWS = 32  # that run at once in one version; others wait


@dataclass(eq=False, slots=True)
class Version:
    """One policy under one name. Only the engine's thread uses its model and batches."""

    name: str
    path: Path | None  # of the adapter; None: the base policy
    model: Any
    ends: Tensor
    waiting: deque[Row] = field(default_factory=deque)
    batches: list[Batch] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.batches)

    def step(self) -> None:
        """Let waiting rows in, or else give each running row one more token: a new request hears from us first."""
        room = MOST_ROWS - sum(len(batch.rows) for batch in self.batches)
        if self.waiting and room > 0:
            rows = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
            rows = [row for row in rows if not row.cancelled]
            batch = next((batch for batch in self.batches if batch.takes_rows), None)
            if batch is None:
                self.batches.append(batch := Batch(self.model, self.ends))
            if rows:
                batch.join(rows)
        else:
            for batch in self.batches:
                batch.step()
        self.batches = [batch for batch in self.batches if batch.rows]

    def fail(self, reason: str) -> None:
        """Tell every row that it will not be finished."""
        for row in [*self.waiting, *(row for batch in self.batches for row in batch.rows)]:
            if not row.cancelled:
                row.fail(reason)
        self.waiting.clear()
        self.batches.clear()

    @torch.no_grad()
    def score(self, ids: tuple[int, ...]) -> list[float]:
        """Log-probability of each token after the first, nats at temperature 1."""
        tokens = torch.tensor([ids], device=self.ends.device)
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        return token_logps(logits, tokens[:, 1:])[0].tolist()


class Versions:
    """Versions by name. ``base_name`` is the base policy's and cannot be unloaded."""

    def __init__(self, base: BaseModel, base_name: str) -> None:
        self._base = base
        self._ends = torch.tensor(sorted(base.end_ids), dtype=torch.long, device=base.device)
        self.base_name = base_name
        self.by_name = {base_name: Version(base_name, None, base.model, self._ends)}

    def get(self, name: str) -> Version:
        """UserError where no policy has this name."""
        if name not in self.by_name:
            raise UserError(f"The model {name!r} is not loaded. Loaded: {', '.join(self.by_name)}.")
        return self.by_name[name]

    def load(self, name: str, directory: Path) -> Version:
        """A new version from an adapter directory; the same name and directory again changes nothing.

        UserError where the name is taken by another adapter, or the directory is none.
        """
        if name in self.by_name:
            if self.by_name[name].path == directory:
                return self.by_name[name]
            raise UserError(f"The model {name!r} is loaded from another directory. A new adapter needs a new name.")
        if not all((directory / file).is_file() for file in (CONFIG, WEIGHTS)):
            raise UserError(f"{directory} holds no adapter ({CONFIG} and {WEIGHTS}). Name the directory of a policy.")
        deltas = adapter_deltas(directory, self._base.device)
        self.by_name[name] = Version(name, directory, with_deltas(self._base.model, deltas), self._ends)
        return self.by_name[name]

    def unload(self, name: str) -> None:
        """Take the name away; whoever holds the version goes on with it. UserError for the base and for an unknown name."""
        if name == self.base_name:
            raise UserError(f"{name!r} is the base model, which stays loaded.")
        self.get(name)
        del self.by_name[name]


def with_deltas(base: nn.Module, deltas: dict[str, Tensor]) -> nn.Module:
    """A model with ``deltas`` added to the weights they name; all other weights are the base's own, not copies."""
    weights = dict(base.named_parameters())
    transposed = {f"{name}.weight" for name, module in base.named_modules() if isinstance(module, Conv1D)}
    own = {name: weights[name] + (delta.T if name in transposed else delta) for name, delta in deltas.items()}
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(own[name], requires_grad=False) if name in own else weight for name, weight in weights.items()
    }
    memo |= {id(buffer): buffer for buffer in base.buffers()}
    return copy.deepcopy(base, memo).eval()
