"""What an update rule minimises, on groups of responses. Pure tensors: the LoRA trainer and the games call the same functions.

N prompts, K responses per prompt, M chosen pairs. preferences[n, i, j] = P(response i preferred to j), with the diagonal at 1/2.
Log-probabilities, margins and targets in nats; logps are sums over the tokens of a response, end-of-text included.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from online_learner.losses import PAIR_LOSSES, log_ratio_margin
from online_learner.pair_weights import PAIR_WEIGHTS
from online_learner.targets import NO_FACTS, PairFacts, group_win_rates, labels_of, pairwise_targets, potentials, winner_margins
from online_learner.update_rule import RuleSettings, UpdateRule
from online_learner.update_rules import check_pair_selection


def mix_logps(logps_by_policy: Mapping[str, Tensor], coefficients: Mapping[str, float]) -> Tensor:
    """Anchor log-probabilities, sum_k c_k log pi_k(y), any one shape; unnormalised, which margins cancel.

    ValueError where a policy of the mixture has no log-probabilities.
    """
    missing = sorted(coefficients.keys() - logps_by_policy.keys())
    if missing or not coefficients:
        raise ValueError(f"no log-probabilities for policies {missing}; have {sorted(logps_by_policy)}")
    return torch.stack([c * logps_by_policy[policy] for policy, c in coefficients.items()]).sum(0)


def pairwise_margins(logps: Tensor, anchor_logps: Tensor) -> Tensor:
    """Log-ratio margins of every ordered pair, h_ij = g_i - g_j with g = log pi - log anchor, (N, K) -> (N, K, K)."""
    ratios = logps - anchor_logps
    return ratios.unsqueeze(-1) - ratios.unsqueeze(-2)


def rule_objective(
    rule: UpdateRule,
    settings: RuleSettings,
    logps: Tensor,
    anchor_logps: Tensor,
    preferences: Tensor,
    *,
    pair_weights: Tensor | None = None,
    facts: PairFacts = NO_FACTS,
    total_weight: float | None = None,
) -> Tensor:
    """Loss of one fit of the rule, a scalar: weighted mean of its pair loss over the chosen pairs. Extras: see extras.py.

    logps, anchor_logps (N, K); preferences (N, K, K), hard labels are 0, 1/2, 1. pair_weights (N, K, K) >= 0 chooses ordered
    pairs (i, j): zero is left out unread, so padding may hold anything; all i < j with weight 1 unless given. total_weight
    replaces the sum of weights as divisor, so that parts of a batch can be added up. A rule whose unit is the response averages
    the losses of the two responses of each pair. Gradient: logps. ValueError where shapes differ or no pair is chosen.
    """
    num_prompts, k = _check_shapes(logps, anchor_logps, preferences, pair_weights)
    weights = (all_pairs(num_prompts, k) if pair_weights is None else pair_weights).to(logps)
    chosen = weights.nonzero(as_tuple=True)
    if total_weight is None and len(chosen[0]) == 0:
        raise ValueError(f"no pair is chosen among {num_prompts} prompts with {k} responses")
    losses = _losses_of_responses if rule.unit == "response" else _losses_of_pairs
    each = losses(rule, settings, logps, anchor_logps, preferences, facts, chosen)
    weight = weights[chosen]
    return (weight * each).sum() / (weight.sum() if total_weight is None else total_weight)


def all_pairs(num_prompts: int, num_responses: int) -> Tensor:
    """Weights (N, K, K) that choose every unordered pair of a prompt's responses once."""
    return torch.ones(num_responses, num_responses).triu(1).expand(num_prompts, -1, -1)


def random_pairs(num_prompts: int, num_responses: int, pairs_per_prompt: int, generator: torch.Generator) -> Tensor:
    """Weights (N, K, K) that choose pairs_per_prompt unordered pairs of each prompt, uniformly, without replacement."""
    first, second = torch.triu_indices(num_responses, num_responses, offset=1)
    if not 1 <= pairs_per_prompt <= len(first):
        raise ValueError(f"pairs_per_prompt must be 1 to {len(first)} for {num_responses} responses, got {pairs_per_prompt}")
    order = torch.rand(num_prompts, len(first), generator=generator).argsort(-1)[:, :pairs_per_prompt]
    weights = torch.zeros(num_prompts, num_responses, num_responses)
    weights[torch.arange(num_prompts).unsqueeze(-1), first[order], second[order]] = 1.0
    return weights


def best_worst_pairs(preferences: Tensor) -> Tensor:
    """Weights (N, K, K) that choose (best, worst) of each prompt by win rate in the group."""
    rates = group_win_rates(preferences)
    weights = torch.zeros_like(preferences)
    rows = torch.arange(len(rates), device=rates.device)
    weights[rows, rates.argmax(-1), rates.argmin(-1)] = 1.0
    diagonal = torch.eye(rates.shape[-1], dtype=torch.bool, device=rates.device)
    return weights.masked_fill(diagonal, 0.0)  # a group of equals has no pair


def choose_pairs(
    rule: UpdateRule, selection: str, preferences: Tensor, generator: torch.Generator, *, for_comparison: bool = False
) -> Tensor:
    """Pair weights (N, K, K) for a selection by name; ``random`` keeps half of the pairs. UserError where it breaks the rule,
    unless that is what is to be compared.
    """
    if not for_comparison:
        check_pair_selection(rule, selection)
    num_prompts, k = preferences.shape[0], preferences.shape[-1]
    if selection == "best_worst":
        return best_worst_pairs(preferences)
    if selection == "random":
        return random_pairs(num_prompts, k, max(1, k * (k - 1) // 4), generator)
    return all_pairs(num_prompts, k)


def achieved_fraction(margins: Tensor, targets: Tensor) -> float | None:
    """phi = mean(sign(m) h) / mean |m| over pairs, any one shape; None where all targets are zero (logistic rules).

    1 is an exact fit on transitive preferences. It misleads on cycles, where an exact fit stays below 1: see potential_fraction.
    """
    size = targets.abs().mean()
    return float((targets.sign() * margins).mean() / size) if size > 0 else None


def potential_fraction(margins: Tensor, preferences: Tensor, coefficient: float) -> float | None:
    """Achieved fraction of the potential part c (r_i - r_j) of the targets, judged by opponents outside the pair.

    For i < j and the others k, l of the group, D_k = p_ik - p_jk: phi = sum h_ij mean_k D_k / (c sum mean_{k<l} D_k D_l).
    Products of two different opponents keep the noise of a single one out of the divisor. margins, preferences (N, K, K).
    None below four responses, or where the divisor is not positive (no potential part can be told from noise).
    """
    k = margins.shape[-1]
    if k < 4 or coefficient == 0:
        return None
    first, second = torch.triu_indices(k, k, offset=1)
    difference = preferences[:, first] - preferences[:, second]  # (N, P, K)
    outside = torch.ones(len(first), k, dtype=difference.dtype, device=difference.device)
    outside[torch.arange(len(first)), first] = outside[torch.arange(len(first)), second] = 0
    total = (difference * outside).sum(-1)  # (N, P)
    products = (total**2 - (difference**2 * outside).sum(-1)) / ((k - 2) * (k - 3))
    divisor = coefficient * products.sum()
    if not divisor * coefficient > 0:
        return None
    return float((margins[:, first, second] * total / (k - 2)).sum() / divisor)


def margin_r2(margins: Tensor, targets: Tensor) -> float | None:
    """Share of the squared target margins explained, 1 - sum (h - m)^2 / sum m^2, any one shape; None where all targets are zero.

    Not centred, because a pair and its swap have opposite targets. On cyclic preferences an exact fit stays below 1.
    """
    size = (targets**2).sum()
    return float(1 - ((margins - targets) ** 2).sum() / size) if size > 0 else None


Chosen = tuple[Tensor, ...]  # prompt, first, second of each chosen pair, each (M,)


def _losses_of_pairs(
    rule: UpdateRule,
    settings: RuleSettings,
    logps: Tensor,
    anchor_logps: Tensor,
    preferences: Tensor,
    facts: PairFacts,
    chosen: Chosen,
) -> Tensor:
    prompt, i, j = chosen
    margins = log_ratio_margin(logps[prompt, i], logps[prompt, j], anchor_logps[prompt, i], anchor_logps[prompt, j])
    labels, scale, pair_loss = (
        labels_of(rule, settings, preferences, facts)[chosen],
        rule.scale(settings),
        PAIR_LOSSES[rule.pair_loss],
    )
    if rule.target_kind == "winner":
        wanted = winner_margins(rule, settings, preferences, facts)[chosen]
        wanted_where = {1: wanted, 0: -wanted}
    else:
        targets = pairwise_targets(rule, settings, preferences, facts)[chosen]
        if rule.weight == "one":
            return pair_loss(margins, targets, labels, scale)
        wanted_where = {1: targets, 0: targets}
    # margin or weight depend on who wins: the expectation of the loss over that
    weights = PAIR_WEIGHTS[rule.weight](_group_ratios(logps - anchor_logps, chosen), preferences, facts)
    first_wins = weights[prompt, i, j] * pair_loss(margins, wanted_where[1], torch.ones_like(labels), scale)
    second_wins = weights[prompt, j, i] * pair_loss(margins, wanted_where[0], torch.zeros_like(labels), scale)
    return labels * first_wins + (1 - labels) * second_wins


def _group_ratios(ratios: Tensor, chosen: Chosen) -> Tensor:
    """Log-ratios (N, K) without gradient, -inf for responses that no chosen pair reads."""
    prompt, i, j = chosen
    unread = torch.ones_like(ratios, dtype=torch.bool)
    unread[prompt, i] = unread[prompt, j] = False
    return ratios.detach().masked_fill(unread, -torch.inf)


def _losses_of_responses(
    rule: UpdateRule,
    settings: RuleSettings,
    logps: Tensor,
    anchor_logps: Tensor,
    preferences: Tensor,
    facts: PairFacts,
    chosen: Chosen,
) -> Tensor:
    prompt, i, j = chosen
    values = potentials(rule, preferences, facts)
    centred = values - 0.5 if rule.target_kind == "win_rate" else values  # the value of a tie stands for the log-normaliser
    targets = rule.target(settings) * centred
    losses = PAIR_LOSSES[rule.pair_loss](logps - anchor_logps, targets, values, rule.scale(settings))  # (N, K)
    return (losses[prompt, i] + losses[prompt, j]) / 2


def _check_shapes(logps: Tensor, anchor_logps: Tensor, preferences: Tensor, pair_weights: Tensor | None) -> tuple[int, int]:
    if pair_weights is not None and pair_weights.shape != preferences.shape:
        shapes = tuple(pair_weights.shape), tuple(preferences.shape)
        raise ValueError(f"pair_weights must have the shape of preferences (N, K, K), got {shapes[0]} and {shapes[1]}")
    if logps.ndim != 2 or anchor_logps.shape != logps.shape or preferences.shape != (*logps.shape, logps.shape[-1]):
        shapes = [tuple(t.shape) for t in (logps, anchor_logps, preferences)]
        raise ValueError(f"logps, anchor_logps, preferences must be (N, K), (N, K), (N, K, K), got {shapes}")
    return logps.shape[0], logps.shape[1]
