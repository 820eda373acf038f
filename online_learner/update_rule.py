"""What an update rule is: one row of data, its settings, and the mixtures of policies that it names. Imports no torch.

A rule says how one round turns the parent policy into a new policy: which policies the log-ratios are measured from, which margin
a pair should reach, which loss measures the error. update_rules holds the rows, mirror_descent computes them.

Roles of policies: ``parent`` made the responses of this round, ``reference`` is fixed, ``previous`` is the parent's parent,
``auxiliary`` is the mixture of policies that optimistic rules carry between rounds (the parent alone before the first round),
``policy`` is what the round makes. eta is step_size, tau is kl_coef; p is P(first preferred to second).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.errors import UserError

SMALL_COEFFICIENT = 1 / 16  # dropping anchors below it changes margins by .02 nats and saves their forward passes

RoleCoefficients = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """Values of the settings that rules read; a rule ignores those that its row does not name."""

    step_size: float = 1.0
    """eta: nats of margin for a win rate of one."""
    kl_coef: float = 0.0
    """tau: pull to the reference policy."""
    beta: float = 0.1
    """Scale of margins inside logistic and hinge losses."""
    momentum: float = 0.3
    """alpha: share of the last round's movement that is repeated (APO)."""
    flip_rate: float = 0.1
    """e: probability that a label is the wrong way round."""
    margin_coef: float = 1.0
    """Size of the margin a rule asks for: gamma of SimPO, alpha of ODPO, the multiple of the uncertainty in pessimistic DPO."""
    extra_coef: float = 0.01
    """Coefficient of the rule's extra term, as its paper writes it."""
    main_weight: float = 0.5
    """Weight of the judged objective where other objectives have scores; they share the rest (MODPO)."""


# what a setting may be: lowest, highest, whether the ends are allowed, in words
_RANGES: dict[str, tuple[float, float, bool, bool, str]] = {
    "step_size": (0, math.inf, False, False, "a positive number"),
    "kl_coef": (0, math.inf, False, False, "a positive number"),
    "beta": (0, math.inf, False, False, "a positive number"),
    "momentum": (0, 1, True, False, "in [0, 1)"),
    "flip_rate": (0, 0.5, True, False, "in [0, 0.5)"),
    "margin_coef": (0, math.inf, True, False, "zero or a positive number"),
    "extra_coef": (0, math.inf, True, False, "zero or a positive number"),
    "main_weight": (0, 1, False, True, "in (0, 1]"),
}

RoleFunction = Callable[[RuleSettings], RoleCoefficients]
Number = Callable[[RuleSettings], float]


def only(role: str) -> RoleFunction:
    """That policy alone."""
    return lambda settings: {role: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """One row of the table."""

    name: str
    summary: str
    """One sentence for the console."""
    source: str
    settings: tuple[str, ...]
    """Settings that change the result, names of RuleSettings."""
    anchors: RoleFunction
    """Coefficients of log-probabilities over parent, reference, previous and auxiliary; they sum to 1, or are none at all."""
    target: Number = lambda settings: 0.0
    """c in the target margin, see target_kind."""
    target_kind: Literal["pair", "win_rate", "logit", "score", "winner"] = "pair"
    """Margin of (a, b), nats. pair: c (p - 1/2). win_rate: c (r_a - r_b), win rates against the opponent. logit: c (l_a - l_b),
    mean logits of the preferences over the group. score: c (s_a - s_b), scores that the round gives. winner: c towards the
    winner, times the log strength of the judgment where the rule needs strengths."""
    next_auxiliary: RoleFunction = lambda settings: {"policy": 1.0}
    """The auxiliary mixture of the next round, over policy, parent, reference and auxiliary; sums to 1."""
    pair_loss: Literal["square", "logistic", "hinge"] = "square"
    """Key of losses.PAIR_LOSSES."""
    scale: Number = lambda settings: 1.0
    """Factor on the margin inside the loss."""
    label_map: Callable[[Any, RuleSettings], Any] | None = None
    """Label the loss sees, from p (number or tensor); may leave [0, 1]."""
    weight: Literal["one", "margin_adaptive", "certainty", "ndcg"] = "one"
    """Key of pair_weights.PAIR_WEIGHTS: factor on the loss of a pair."""
    extras: Callable[[RuleSettings], dict[str, float]] = lambda settings: {}
    """Terms added to the pair losses, keys of extras.EXTRAS, with their coefficients."""
    fits: Literal[1, 2] = 1
    """2: the first fit makes a half step. Where the opponent is half_step, the second starts again from the same anchors and
    plays against it; elsewhere the half step becomes ``auxiliary``, on the same pairs."""
    opponent: Literal["group", "half_step", "mixture"] = "group"
    """Whom win rates are against: the parent's responses in the group; what the first fit made; the anchor mixture."""
    unit: Literal["pair", "response"] = "pair"
    """response: the loss is on single log-ratios, target c (r - 1/2), or c l for logits."""
    labels: Literal["soft", "hard", "ranking"] = "soft"
    """soft: probabilities of the preference model; hard: people's verdicts as 0, 1/2 for a tie, 1; ranking: 0, 1/2 or 1 by the
    order of win rates in the group."""
    sampler: Literal[
        "on_policy",
        "dataset",
        "all_rounds_and_reference",
        "demonstrations",
        "rejection",
        "multi_step_rejection",
        "extrapolated",
    ] = "on_policy"
    """Who made the pairs. on_policy: the parent; dataset: anybody, the judged pairs; all_rounds_and_reference: the parent and the
    policies before it the first, the reference the second; demonstrations: a person the first, the parent the second; rejection,
    multi_step_rejection: the reference, kept by reward (samplers.py); extrapolated: the parent moved on by momentum."""
    length_normalised: bool = False
    """Log-probabilities of policy and anchors are means over tokens instead of sums."""
    implicit_pull: bool = False
    """The pull is taken at the new policy: step_size * kl_coef has no upper limit."""
    needs: tuple[str, ...] = ()
    """What the round must provide beyond parent and reference: names of NEEDS."""
    auto: Mapping[str, float] | None = None
    """Values of settings left on auto where the common ones do not suit this rule."""

    def check(self, settings: RuleSettings) -> None:
        """UserError naming the value where a setting that the rule uses is outside its range."""
        for name in self.settings:
            value = getattr(settings, name)
            low, high, low_ok, high_ok, allowed = _RANGES[name]
            if name == "kl_coef" and "step_size" in self.settings:  # tau = 0 is the unregularised game
                low_ok, allowed = True, "zero or a positive number"
            inside = (low < value or (low_ok and value == low)) and (value < high or (high_ok and value == high))
            if not inside:  # nan is outside too
                raise UserError(f"update rule {self.name}: {name} must be {allowed}, got {value}. Change {name}.")
        step = settings.step_size * settings.kl_coef
        if {"step_size", "kl_coef"} <= set(self.settings) and not self.implicit_pull and not step < 1:
            raise UserError(
                f"update rule {self.name}: step_size * kl_coef must be in [0, 1), got {settings.step_size} * "
                f"{settings.kl_coef} = {step:g}: the step would go past the reference policy. Lower step_size or kl_coef."
            )


NEEDS = {
    "auxiliary": "the mixture of policies that earlier rounds carried on",
    "previous": "the policy before the parent",
    "half_step": "samples of the half step on the training prompts, compared by the preference model",
    "mixture": "samples of the mixture of parent and reference, compared by the preference model",
    "reference_samples": "samples of the reference policy on the training prompts",
    "policy_samples": "samples of the parent policy, with their log-probabilities under the reference",
    "candidates": "many samples of the reference policy, scored by the preference model",
    "demonstrations": "responses written by people",
    "strengths": "judgments that say how much better",
    "objectives": "ratings of further objectives",
    "ensemble": "several heads of the preference model, for its uncertainty",
    "model_logits": "the preference model's logits of the judged pairs",
    "rationales": "reasons that annotators wrote",
    "degraded": "variants of responses with their key phrases removed",
}
"""What a rule may ask of the round, in words for people."""


def mix_anchors(
    role_coefficients: RoleCoefficients,
    auxiliary: Mapping[str, float],
    parent_id: str,
    reference_id: str,
    *,
    previous_id: str | None = None,
    policy_id: str | None = None,
    drop_small: bool = False,
) -> dict[str, float]:
    """Coefficients over policy ids from coefficients over roles; equal ids are merged, zeros left out, the sum is 1.

    No coefficients give none: a rule without anchors. drop_small leaves out policies that only the auxiliary mixture names, where
    their coefficient is below 1/16 in size, and renormalises; a small pull to the reference is still a pull.
    ValueError where the result would not sum to 1.
    """
    if not role_coefficients:
        return {}
    members: dict[str, Mapping[str, float]] = {
        "auxiliary": auxiliary,
        "parent": {parent_id: 1.0},
        "reference": {reference_id: 1.0},
        "previous": {previous_id or parent_id: 1.0},  # the first policy has not moved yet
    }
    if policy_id is not None:
        members["policy"] = {policy_id: 1.0}
    mixed: dict[str, float] = {}
    for role, coefficient in role_coefficients.items():
        if role not in members:
            raise ValueError(f"role {role!r} is not one of {', '.join(members)}")
        for policy, share in members[role].items():
            mixed[policy] = mixed.get(policy, 0.0) + coefficient * share
    if not math.isclose(sum(mixed.values()), 1.0, abs_tol=1e-6):  # margins would drift with the length of a response
        raise ValueError(f"anchor coefficients must sum to 1, got {mixed}")
    named = {policy for role in role_coefficients.keys() - {"auxiliary"} for policy in members[role]}
    least = {policy: SMALL_COEFFICIENT if drop_small and policy not in named else 1e-15 for policy in mixed}
    kept = {policy: c for policy, c in mixed.items() if abs(c) >= least[policy]}
    total = sum(kept.values())
    return {policy: c / total for policy, c in kept.items()} if drop_small else kept
