"""Terms that some rules add to their pair losses; the one place to add one. Pure tensors, scalars in nats.

N prompts, K responses of a group, S samples per prompt. An extra of a rule is its coefficient times the function here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraInputs:
    """What extras read; a rule's row says which of it the round must fill in. Gradient flows through ``*logps`` and logits."""

    logps: Tensor | None = None
    """(N, K), of the group's responses."""
    preferences: Tensor | None = None
    """(N, K, K), the labels of the group's pairs."""
    pair_weights: Tensor | None = None
    """(N, K, K), the chosen pairs."""
    sample_logps: Tensor | None = None
    """(N, S): samples of the reference for logp_samples, of the policy or its parent for kl_ref."""
    sample_reference_logps: Tensor | None = None
    """(N, S), the same samples under the reference."""
    sample_drawn_logps: Tensor | None = None
    """(N, S), the same samples under the policy that drew them, where that is not the one being trained."""
    rationale_logps: Tensor | None = None
    """(R,), annotators' reasons given prompt and pair."""
    degree_logits: Tensor | None = None
    """(V, L), a classifier of how much was removed from each of V variants."""
    degrees: Tensor | None = None
    """(V,) long, how much was removed: 0 is nothing, L - 1 the most."""


def nll_winner(inputs: ExtraInputs) -> Tensor:
    """Negative log-likelihood of the winners, weighted mean over chosen pairs of -(p log pi(a) + (1 - p) log pi(b))."""
    logps, preferences = _given(inputs.logps, "logps"), _given(inputs.preferences, "preferences")
    weights = _given(inputs.pair_weights, "pair_weights").to(logps)
    prompt, i, j = chosen = weights.nonzero(as_tuple=True)
    p = preferences[chosen].to(logps)
    each = -(p * logps[prompt, i] + (1 - p) * logps[prompt, j])
    return (weights[chosen] * each).sum() / weights[chosen].sum()


def nll_rationale(inputs: ExtraInputs) -> Tensor:
    """Negative log-likelihood of the reasons, mean over judgments (arXiv:2407.14477)."""
    return -_given(inputs.rationale_logps, "rationale_logps").mean()


def logp_samples(inputs: ExtraInputs) -> Tensor:
    """Mean log-likelihood of calibration samples: a positive coefficient explores away from them, a negative one stays close."""
    return _given(inputs.sample_logps, "sample_logps").mean()


def kl_ref(inputs: ExtraInputs) -> Tensor:
    """KL(policy || reference) by S >= 2 samples of the policy per prompt; value and gradient are unbiased.

    Gradient E[(log-ratio - baseline) grad log pi], the baseline being the mean log-ratio of the other samples of the prompt.
    Samples that an earlier policy drew, say the parent, are weighed by how likely they have become since (self-normalised
    importance weights): consistent in S. Unweighed, theirs would be the gradient of half the variance of the log-ratio.
    """
    logps = _given(inputs.sample_logps, "sample_logps")
    ratios = (logps - _given(inputs.sample_reference_logps, "sample_reference_logps")).detach()
    drawn = inputs.sample_drawn_logps
    weights = torch.softmax(torch.zeros_like(ratios) if drawn is None else logps.detach() - drawn, dim=-1)
    value = (weights * ratios).sum(-1, keepdim=True)
    others = (value - weights * ratios) / (1 - weights).clamp_min(1e-6)
    surrogate = (weights * (ratios - others) * logps).sum(-1).mean()
    return value.mean() + surrogate - surrogate.detach()


def preference_degree(inputs: ExtraInputs) -> Tensor:
    """Cross-entropy of telling how much of a response's key content was removed (arXiv:2409.17791)."""
    return cross_entropy(_given(inputs.degree_logits, "degree_logits"), _given(inputs.degrees, "degrees"))


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"the rule's extra term needs {name}")
    return value


EXTRAS: dict[str, Callable[[ExtraInputs], Tensor]] = {
    "nll_winner": nll_winner,
    "nll_rationale": nll_rationale,
    "logp_samples": logp_samples,
    "kl_ref": kl_ref,
    "preference_degree": preference_degree,
}
