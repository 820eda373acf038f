"""The gradient of one optimiser step, in parts whose activations fit into memory.

A rule without extra terms is a sum over groups: each part of the groups is forwarded and gone back through, then forgotten.
Extra terms are means over a whole step: there the log-probabilities of all responses are computed first, without activations,
then the loss in them, and then each response is forwarded again and given its share of the gradient (arXiv:2101.06983).
Shapes as in groups.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_learner.logps import response_logps
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
    if not weight or (objective.has_extras and sum(sizes) <= tokens):
        return _backward(objective.loss(groups, group_logps(model, groups), anchor_logps))
    if objective.has_extras or max(sizes) > tokens:
        return _add_by_response(model, objective, groups, anchor_logps, tokens)
    total = 0.0
    at_once = min(tokens, TOKENS_ON_CPU) if device_of(model).type == "cpu" else tokens
    for rows in _parts(range(len(groups)), sizes, at_once):
        part = groups.select(rows)
        total += _backward(objective.loss(part, group_logps(model, part), anchor_logps[rows], total_weight=weight))
    return total


def _add_by_response(model: Any, objective: Objective, groups: Groups, anchor_logps: Tensor, tokens: int) -> float:
    used, index = used_rows(groups)
    sequences = [groups.sequences[row] for row in used]
    with torch.no_grad():
        logps = response_logps(model, sequences)
    loss, gradient = loss_gradient(objective, groups, logps, index, anchor_logps)
    for rows in _parts(range(len(used)), [sequence.length for sequence in sequences], tokens):
        own = response_logps(model, [sequences[row] for row in rows])
        own.backward(gradient[rows])
    return loss


def loss_gradient(
    objective: Objective, groups: Groups, logps: Tensor, index: Tensor, anchor_logps: Tensor
) -> tuple[float, Tensor]:
    """The loss and its gradient in the responses' log-probabilities (B,), which ``index`` (N, K) spreads over the groups."""
    leaf = logps.detach().requires_grad_()
    loss = objective.loss(groups, leaf[index.to(leaf.device)], anchor_logps)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient


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


def _backward(loss: Tensor) -> float:
    loss.backward()
    return float(loss.detach())
