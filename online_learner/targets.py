"""What a rule asks of a pair: its label and its target margin. Pure tensors.

N prompts, K responses per prompt. preferences[n, i, j] = P(response i preferred to j), with the diagonal at 1/2. Margins in nats.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from online_learner.update_rule import RuleSettings, UpdateRule


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What some rules read about a group beyond its preferences; padding may hold anything, except in opponent_weights."""

    opponent_weights: Tensor | None = None
    """(N, K), sum 1 per prompt: how likely each response of the group is as an opponent; equally unless given."""
    scores: Tensor | None = None
    """(N, K): scores of a target of kind score, or win rates against opponents from outside the group for kind win_rate."""
    strengths: Tensor | None = None
    """(N, K, K), at least 1: how much better the winner was said to be."""
    model_logits: Tensor | None = None
    """(N, K, K): the preference model's logits where preferences are people's verdicts."""
    certainty: Tensor | None = None
    """(N, K, K), in [0, 1]: pair_weights.certainty."""
    drawn_logps: Tensor | None = None
    """(N, K): log-probability of each response under the policy that drew it, for extra terms; 0 where nobody did."""


NO_FACTS = PairFacts()


def group_win_rates(preferences: Tensor, opponent_weights: Tensor | None = None) -> Tensor:
    """Win rate of each response against its group, r_i = sum_k w_k p_ik, (N, K).

    Opponents count equally unless weights (N, K) that sum to 1 per prompt are given; a response meets itself with 1/2.
    """
    if opponent_weights is None:
        return preferences.mean(-1)
    return (preferences @ opponent_weights.unsqueeze(-1)).squeeze(-1)


def mean_logits(preferences: Tensor, opponent_weights: Tensor | None = None) -> Tensor:
    """Mean logit of each response against its group, (N, K), nats: with Bradley-Terry preferences its reward up to a constant."""
    return group_win_rates(torch.logit(preferences, eps=1e-6), opponent_weights)


def potentials(rule: UpdateRule, preferences: Tensor, facts: PairFacts = NO_FACTS) -> Tensor:
    """The per-response value whose difference a potential target asks for, (N, K); see UpdateRule.target_kind.

    ValueError where the round had to give scores and did not.
    """
    if rule.target_kind == "win_rate" and (facts.scores is not None or rule.opponent == "group"):
        return group_win_rates(preferences, facts.opponent_weights) if facts.scores is None else facts.scores
    if rule.target_kind == "logit":
        return mean_logits(preferences, facts.opponent_weights)
    if facts.scores is None:
        raise ValueError(f"update rule {rule.name} needs scores (N, K) of the responses")
    return facts.scores


def labels_of(rule: UpdateRule, settings: RuleSettings, preferences: Tensor, facts: PairFacts = NO_FACTS) -> Tensor:
    """The labels that the loss sees, (N, K, K): preferences or the order of win rates, through the rule's label map."""
    if rule.labels == "ranking":
        rates = group_win_rates(preferences, facts.opponent_weights)
        preferences = ((rates.unsqueeze(-1) - rates.unsqueeze(-2)).sign() + 1) / 2
    return preferences if rule.label_map is None else rule.label_map(preferences, settings)


def pairwise_targets(rule: UpdateRule, settings: RuleSettings, preferences: Tensor, facts: PairFacts = NO_FACTS) -> Tensor:
    """Target margins of every ordered pair, (N, K, K), nats; see UpdateRule.target_kind."""
    coefficient = rule.target(settings)
    if rule.target_kind == "winner":
        return (2 * labels_of(rule, settings, preferences, facts) - 1) * winner_margins(rule, settings, preferences, facts)
    if rule.target_kind == "pair":
        return coefficient * (labels_of(rule, settings, preferences, facts) - 0.5)
    values = potentials(rule, preferences, facts)
    return coefficient * (values.unsqueeze(-1) - values.unsqueeze(-2))


def winner_margins(rule: UpdateRule, settings: RuleSettings, preferences: Tensor, facts: PairFacts) -> Tensor:
    """Margin of (a, b) where a wins, (N, K, K), nats, for rules that ask for a margin towards the winner."""
    if "strengths" not in rule.needs:
        return torch.full_like(preferences, rule.target(settings))
    if facts.strengths is None:
        raise ValueError(f"update rule {rule.name} needs the strengths (N, K, K) of the judgments")
    return rule.target(settings) * facts.strengths.to(preferences).log()
