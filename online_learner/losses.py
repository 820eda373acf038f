"""Losses on one pair of responses; the one place to add a pair loss. Pure tensors: no policy, no optimiser, no data.

B pairs. Margins and targets in nats, first response minus second. Gradient flows through the margin only.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import relu, softplus


def log_ratio_margin(logps_a: Tensor, logps_b: Tensor, anchor_logps_a: Tensor, anchor_logps_b: Tensor) -> Tensor:
    """Difference of two log-ratios to the anchor, h = [log pi(a) - log anchor(a)] - [log pi(b) - log anchor(b)], (B,), nats.

    ValueError where the four shapes differ.
    """
    _refuse_to_broadcast(logps_a, logps_b, anchor_logps_a, anchor_logps_b)
    return (logps_a - anchor_logps_a) - (logps_b - anchor_logps_b)


def square_loss(margin: Tensor, target: Tensor, soft_label: Tensor, scale: float) -> Tensor:
    """Squared error of the scaled margin, (s h - m)^2, (B,), nats^2; the soft label enters through the target alone.

    With target eta (p - 1/2), pairs drawn independently from a policy and that policy's win rates r, the minimiser is
    anchor * exp(eta r): ONPO (arXiv:2502.16852), INPO (arXiv:2407.00617); a hard label and target 1 / (2 tau) is IPO
    (arXiv:2310.12036 v2, Eq. 17).
    """
    _refuse_to_broadcast(margin, target, soft_label)
    return (scale * margin - target) ** 2


def logistic_loss(margin: Tensor, target: Tensor, soft_label: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the soft label p, p softplus(-(s h - m)) + (1 - p) softplus(s h - m), (B,), nats.

    With s = beta, m = 0 and p = 1 this is DPO, -log sigmoid(beta h) (arXiv:2305.18290, Eq. 7); m > 0 asks for a margin.
    """
    _refuse_to_broadcast(margin, target, soft_label)
    logit = scale * margin - target
    return soft_label * softplus(-logit) + (1 - soft_label) * softplus(logit)


def hinge_loss(margin: Tensor, target: Tensor, soft_label: Tensor, scale: float) -> Tensor:
    """Hinge of the soft label p, p relu(1 - (s h - m)) + (1 - p) relu(1 + s h - m), (B,), nats (arXiv:2309.06657, Eq. 10)."""
    _refuse_to_broadcast(margin, target, soft_label)
    logit = scale * margin - target
    return soft_label * relu(1 - logit) + (1 - soft_label) * relu(1 + logit)


def _refuse_to_broadcast(*tensors: Tensor) -> None:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:  # (B,) with (B, 1) would silently train on B * B made-up pairs
        raise ValueError(f"loss arguments must share one shape (B,), got {sorted(shapes)}")


PairLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
PAIR_LOSSES: dict[str, PairLoss] = {"square": square_loss, "logistic": logistic_loss, "hinge": hinge_loss}
