"""The gradient of one optimiser step, in parts whose activations fit into memory.

A rule without extra terms is a sum over groups: each part of the groups is forwarded and gone back through, then forgotten.
Extra terms are means over a whole step: there the log-probabilities of all responses are computed first, without activations,
then the loss in them, and then each response is forwarded again and given its share of the gradient (arXiv:2101.06983).
Shapes as in groups.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.groups import Groups
from online_learner.policy.objective import Objective
from storage.errors import UserError

TOKENS_ON_CPU = 1024  # where the groups can be taken apart: more at once are no faster there


@dataclass(slots=True)
class Room:
    """Tokens whose activations are held at once."""

    tokens: int

    def halve(self, error: Exception) -> None:
        """After memory ran out; UserError where there is nothing left to halve."""
        if self.tokens <= 1:
            raise UserError(
                "The update does not fit into memory even with one response at a time. Allow shorter responses "
                "(generation.max_new_tokens), or use a machine with more memory or a smaller base model."
            ) from error
        self.tokens //= 2


def group_logps(model: Any, groups: Groups) -> Tensor:
    """Summed log-probabilities of the groups' responses, (N, K); each response is forwarded once."""
    used, index = used_rows(groups)
    logps = response_logps(model, [groups.sequences[row] for row in used])
    return logps[index.to(logps.device)]


def used_rows(groups: Groups) -> tuple[list[int], Tensor]:
    """Rows of the sequences that the groups hold, and each member's place among them, (N, K); padding has place 0."""
    used = sorted({int(row) for row in groups.members.flatten() if row >= 0})
    place = {row: i for i, row in enumerate(used)}
    return used, torch.tensor([[place.get(int(row), 0) for row in rows] for rows in groups.members])


def add_gradient(model: Any, objective: Objective, groups: Groups, anchor_logps: Tensor, room: Room) -> float:
    """Add the gradient of the step's loss to that of the trained weights; the loss. Less room is taken where memory runs out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [None if p.grad is None else p.grad.clone() for p in trained]
    while True:
        try:
            return _add_in_parts(model, objective, groups, anchor_logps, room.tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # its frames hold the activations
        for parameter, gradient in zip(trained, before, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        room.halve(failure)


def device_of(model: Any) -> torch.device:
    """Where the model's weights lie."""
    return next(model.parameters()).device


def is_out_of_memory(error: Exception) -> bool:
    """Torch has a class for CUDA only; on a CPU it is a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _add_in_parts(model: Any, objective: Objective, groups: Groups, anchor_logps: Tensor, tokens: int) -> float:
    sizes, weight = group_sizes(groups), float(groups.pair_weights.sum())
    if objective.has_extras or max(sizes) > tokens or not weight:
        loss = StepLoss(objective, groups, anchor_logps)
        add_by_response(model, loss.sequences, loss.gradient, tokens)
        return loss.value
    total = 0.0
    at_once = min(tokens, TOKENS_ON_CPU) if device_of(model).type == "cpu" else tokens
    for rows in _parts(range(len(groups)), sizes, at_once):
        part = groups.select(rows)
        loss = objective.loss(part, group_logps(model, part), anchor_logps[rows], total_weight=weight)
        loss.backward()
        total += float(loss.detach())
    return total


class StepLoss:
    """The loss of a step as a function of the log-probabilities (B,) of its ``sequences``."""

    def __init__(self, objective: Objective, groups: Groups, anchor_logps: Tensor) -> None:
        self._objective, self._groups, self._anchor_logps = objective, groups, anchor_logps
        used, self._index = used_rows(groups)
        self.sequences = [groups.sequences[row] for row in used]
        self.value = 0.0

    def gradient(self, logps: Tensor) -> Tensor:
        """Gradient in the log-probabilities, (B,) -> (B,); the loss itself is then ``value``."""
        leaf = logps.detach().requires_grad_()
        loss = self._objective.loss(self._groups, leaf[self._index.to(leaf.device)], self._anchor_logps)
        self.value = float(loss.detach())
        return torch.autograd.grad(loss, leaf)[0]


def add_by_response(
    model: Any, sequences: Sequence[TokenisedResponse], gradient_of: Callable[[Tensor], Tensor], tokens: int
) -> None:
    """Add the gradient of a loss of which only the gradient in the log-probabilities is known, once these are."""
    lengths = [sequence.length for sequence in sequences]
    keep = sum(lengths) <= tokens
    with torch.set_grad_enabled(keep):
        logps = response_logps(model, sequences)
    gradient = gradient_of(logps.detach())
    if keep:
        logps.backward(gradient)
        return
    for rows in _parts(range(len(sequences)), lengths, tokens):
        response_logps(model, [sequences[row] for row in rows]).backward(gradient[rows])


def group_sizes(groups: Groups) -> list[int]:
    """Tokens of each group, a prompt counted for each of its responses: what the padded way holds, the packed way holds less."""
    lengths = [sequence.length for sequence in groups.sequences]
    return [sum(lengths[row] for row in rows if row >= 0) for rows in groups.members.tolist()]


def _parts(rows: Iterable[int], sizes: list[int], tokens: int) -> Iterator[list[int]]:
    """Rows in order, as many at once as fit; what does not fit stands alone."""
    part: list[int] = []
    for row in rows:
        if part and sum(sizes[other] for other in part) + sizes[row] > tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
