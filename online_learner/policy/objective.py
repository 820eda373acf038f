"""What one fit minimises: a rule with the values of its settings, on groups of responses.

It is mirror_descent.rule_objective, the function that tests/games prove, and the rule's extra terms. Shapes as in groups.py.
"""

from dataclasses import dataclass

from torch import Tensor

from online_learner.extras import EXTRAS, ExtraInputs
from online_learner.mirror_descent import rule_objective
from online_learner.policy.degree_head import DegreeHead
from online_learner.policy.groups import Groups, given_facts
from online_learner.targets import PairFacts, pairwise_targets
from online_learner.update_rule import RuleSettings, UpdateRule

DEGREE = "preference_degree"
MEMBERS_OF_EXTRA = {"nll_rationale": "rationales", "logp_samples": "samples", "kl_ref": "samples"}  # see Groups.members_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A rule with the values of its settings."""

    rule: UpdateRule
    settings: RuleSettings

    @property
    def has_extras(self) -> bool:
        """Whether there are terms that are no sum over groups."""
        return bool(self.rule.extras(self.settings))

    def loss(self, groups: Groups, logps: Tensor, anchor_logps: Tensor, *, total_weight: float | None = None) -> Tensor:
        """Mean loss of the chosen pairs and the rule's extra terms, scalar; logps and anchor_logps (N, K).

        ``total_weight`` is that of all pairs where these groups are a part of a step, whose losses then add up.
        """
        anchor_logps = anchor_logps.to(logps)
        own, anchor = self.measured(groups, logps), self.measured(groups, anchor_logps)
        preferences, weights = groups.preferences.to(logps), groups.pair_weights.to(logps)
        facts = PairFacts(**{name: value.to(logps) for name, value in given_facts(groups.facts).items()})
        loss = rule_objective(
            self.rule, self.settings, own, anchor, preferences, pair_weights=weights, facts=facts, total_weight=total_weight
        )
        for name, coefficient in self.rule.extras(self.settings).items():
            inputs = None if name == DEGREE else _extra_inputs(name, groups, logps, anchor_logps)
            if inputs is not None:
                loss = loss + coefficient * EXTRAS[name](inputs)
        return loss

    def add_degree_gradient(self, head: DegreeHead, model: object, groups: Groups) -> float:
        """Add the gradient of the term that reads hidden states, times its coefficient; its value, 0 where it reads nothing."""
        inputs = head.inputs(model, groups)
        if inputs is None:
            return 0.0
        loss = self.rule.extras(self.settings)[DEGREE] * EXTRAS[DEGREE](inputs)
        loss.backward()
        return float(loss.detach())

    def measured(self, groups: Groups, logps: Tensor) -> Tensor:
        """Log-probabilities (N, K) as the rule measures them: sums over tokens, or means."""
        return logps / groups.lengths().to(logps) if self.rule.length_normalised else logps

    def targets(self, groups: Groups) -> Tensor:
        """Target margins (N, K, K), nats."""
        return pairwise_targets(self.rule, self.settings, groups.preferences, groups.facts)


def _extra_inputs(name: str, groups: Groups, logps: Tensor, anchor_logps: Tensor) -> ExtraInputs | None:
    """What an extra term reads of these groups; None where they hold nothing of it."""
    if name == "nll_winner":
        return ExtraInputs(logps=logps, preferences=groups.preferences.to(logps), pair_weights=groups.pair_weights)
    wanted = groups.members_of.get(MEMBERS_OF_EXTRA[name])
    if wanted is None or not wanted.any():
        return None
    chosen = wanted > 0
    if name == "nll_rationale":
        return ExtraInputs(rationale_logps=logps[chosen.to(logps.device)])
    num_samples = int(chosen.sum(-1).max())
    whole = chosen.sum(-1) == num_samples  # prompts with fewer samples would not fit into one tensor
    where = (chosen & whole.unsqueeze(-1)).to(logps.device)
    shape = (-1, num_samples)
    drawn = groups.facts.drawn_logps
    return ExtraInputs(
        sample_logps=logps[where].reshape(shape),
        sample_reference_logps=anchor_logps.to(logps)[where].reshape(shape),
        sample_drawn_logps=None if drawn is None else drawn.to(logps)[where].reshape(shape),
    )
