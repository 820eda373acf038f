"""The table of update rules; the one place to add a rule. Data and arithmetic only: imports no torch, the console reads it too.

A rule says how one round turns the parent policy into a new policy: which policies the log-ratios are measured from, which margin
a pair should reach, which loss measures the error. mirror_descent computes it; tests/games prove it.

Roles of policies: ``parent`` made the responses of this round, ``reference`` is fixed, ``auxiliary`` is the mixture of policies
that optimistic rules carry between rounds (the parent alone before the first round), ``policy`` is what the round makes.
step_size is eta, kl_coef is tau; p is P(first preferred to second).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.errors import UserError

SMALL_COEFFICIENT = 1 / 16  # dropping anchors below it changes margins by .02 nats and saves their forward passes

RoleCoefficients = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """One row of the table. Functions take (step_size, kl_coef)."""

    name: str
    summary: str
    """One sentence for the console."""
    source: str
    settings: tuple[str, ...]
    """Settings that change the result: step_size, kl_coef, beta. Others are ignored by the rule."""
    anchors: Callable[[float, float], RoleCoefficients]
    """Coefficients of log-probabilities over parent, reference and auxiliary; they sum to 1."""
    target: Callable[[float, float], float]
    """c in the target margin m = c (p - 1/2), or c (r_a - r_b) where target_kind is win_rate; nats."""
    next_auxiliary: Callable[[float, float], RoleCoefficients]
    """The auxiliary mixture of the next round, over policy, parent, reference and auxiliary; sums to 1."""
    pair_loss: str = "square"
    """Key of losses.PAIR_LOSSES."""
    scale: Callable[[float], float] = lambda beta: 1.0
    """Factor on the margin inside the loss, from beta."""
    fits: Literal[1, 2] = 1
    """2: the first fit makes the next auxiliary policy, the second starts again with that as ``auxiliary``, on the same pairs."""
    target_kind: Literal["pair", "win_rate"] = "pair"
    """pair: from the preference inside the pair; win_rate: from the difference of win rates against the group."""
    unit: Literal["pair", "response"] = "pair"
    """response: the loss is on single log-ratios, target c (r - 1/2) (SPPO)."""
    labels: Literal["soft", "hard"] = "soft"
    """soft: probabilities of the preference model; hard: people's verdicts as 0, 1/2 for a tie, 1."""
    sampler: Literal["on_policy", "dataset"] = "on_policy"
    """on_policy: pairs of the parent's own responses; dataset: the judged pairs, whoever made them."""
    needs: tuple[str, ...] = ()
    """What the round must provide beyond parent and reference: ``auxiliary``."""
    auto: Mapping[str, float] | None = None
    """Values of settings left on auto where the common ones do not suit this rule."""

    def check(self, *, step_size: float, kl_coef: float, beta: float) -> None:
        """UserError naming the value where a setting that the rule uses is outside its range."""
        values = {"step_size": step_size, "kl_coef": kl_coef, "beta": beta}
        for name in self.settings:
            zero_ok = name == "kl_coef" and "step_size" in self.settings  # tau = 0 is the unregularised game
            if not (math.isfinite(values[name]) and (values[name] > 0 or (zero_ok and values[name] == 0))):
                allowed = "zero or a positive number" if zero_ok else "a positive number"
                raise UserError(f"update rule {self.name}: {name} must be {allowed}, got {values[name]}. Change {name}.")
        if {"step_size", "kl_coef"} <= set(self.settings) and not step_size * kl_coef < 1:
            raise UserError(
                f"update rule {self.name}: step_size * kl_coef must be in [0, 1), got {step_size} * {kl_coef} = "
                f"{step_size * kl_coef:g}: the step would go past the reference policy. Lower step_size or kl_coef."
            )


def get_rule(name: str) -> UpdateRule:
    """The rule of that name; UserError that lists the names."""
    if name not in UPDATE_RULES:
        raise UserError(f"unknown update rule {name!r}. Choose one of: {', '.join(UPDATE_RULES)}.")
    return UPDATE_RULES[name]


def list_rules() -> list[dict[str, Any]]:
    """Name, summary, source and settings used of every rule, the default first."""
    rules = UPDATE_RULES.values()
    return [{"name": r.name, "summary": r.summary, "source": r.source, "settings": list(r.settings)} for r in rules]


def check_pair_selection(rule: UpdateRule, selection: str) -> None:
    """UserError where the way pairs are chosen would move the rule's fixed point.

    Square-loss rules regress on p - 1/2, which is no potential difference on a cycle: keeping only the best and the worst of
    a group then pulls the last iterate away from the Nash policy. With a win-rate difference selection only re-weights.
    """
    if selection not in PAIR_SELECTIONS:
        raise UserError(f"unknown pair selection {selection!r}. Choose one of: {', '.join(PAIR_SELECTIONS)}.")
    if selection == "best_worst" and rule.pair_loss == "square" and rule.target_kind == "pair":
        raise UserError(
            f"pairs = 'best_worst' is refused for update rule {rule.name}: best-versus-worst pairs move its fixed point "
            "away from the Nash policy when preferences are cyclic. Use pairs = 'all' or 'random'."
        )


def mix_anchors(
    role_coefficients: RoleCoefficients,
    auxiliary: Mapping[str, float],
    parent_id: str,
    reference_id: str,
    *,
    policy_id: str | None = None,
    drop_small: bool = False,
) -> dict[str, float]:
    """Coefficients over policy ids from coefficients over roles; equal ids are merged, zeros left out, the sum is 1.

    drop_small leaves out coefficients below 1/16 in size and renormalises. ValueError where the result would not sum to 1.
    """
    members: dict[str, Mapping[str, float]] = {
        "auxiliary": auxiliary,
        "parent": {parent_id: 1.0},
        "reference": {reference_id: 1.0},
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
    kept = {policy: c for policy, c in mixed.items() if abs(c) >= (SMALL_COEFFICIENT if drop_small else 1e-15)}
    total = sum(kept.values())
    return {policy: c / total for policy, c in kept.items()} if drop_small else kept


def _kept(step_size: float, kl_coef: float) -> float:
    """q = 1 - eta tau, the share of the start that a step keeps."""
    return 1 - step_size * kl_coef


def _only(role: str) -> Callable[[float, float], RoleCoefficients]:
    return lambda step_size, kl_coef: {role: 1.0}


def _onpo_ref_anchors(step_size: float, kl_coef: float) -> RoleCoefficients:
    kept = _kept(step_size, kl_coef)
    return {"auxiliary": kept**2, "reference": 1 - kept**2}


def _onpo_ref_next(step_size: float, kl_coef: float) -> RoleCoefficients:
    kept = _kept(step_size, kl_coef)
    return {"policy": 1 / (1 + kept), "auxiliary": kept / (1 + kept)}


def _pulled_parent(step_size: float, kl_coef: float) -> RoleCoefficients:
    kept = _kept(step_size, kl_coef)
    return {"parent": kept, "reference": 1 - kept}


def _geometric_mean(step_size: float, kl_coef: float) -> RoleCoefficients:
    return {"policy": 0.5, "auxiliary": 0.5}


_ROWS = (
    UpdateRule(
        name="onpo_ref",
        summary="Optimistic self-play with a pull to the reference policy; one fit a round. The default.",
        source="arXiv:2502.16852 with the reference mixture of arXiv:2407.00617 in both steps; one fit for both is derived here",
        settings=("step_size", "kl_coef"),
        anchors=_onpo_ref_anchors,
        target=lambda eta, tau: eta * (1 + _kept(eta, tau)),
        next_auxiliary=_onpo_ref_next,
        needs=("auxiliary",),
    ),
    UpdateRule(
        name="onpo",
        summary="Optimistic self-play towards the Nash policy of the plain game; one fit a round.",
        source="arXiv:2502.16852, Algorithm 1; its two fits in one is derived here",
        settings=("step_size",),
        anchors=_only("auxiliary"),
        target=lambda eta, tau: 2 * eta,
        next_auxiliary=_geometric_mean,
        needs=("auxiliary",),
    ),
    UpdateRule(
        name="onpo_two_fit",
        summary="The same with the paper's two fits a round: twice the training time, for comparison.",
        # The first fit is not kept as a policy: the geometric mean below is the same policy where the fits are exact.
        source="arXiv:2502.16852, Algorithm 1",
        settings=("step_size",),
        anchors=_only("auxiliary"),
        target=lambda eta, tau: eta,
        next_auxiliary=_geometric_mean,
        fits=2,
        needs=("auxiliary",),
    ),
    UpdateRule(
        name="inpo",
        summary="Self-play with a pull to the reference policy, without optimism.",
        source="arXiv:2407.00617; eta here is 1 / eta there",
        settings=("step_size", "kl_coef"),
        anchors=_pulled_parent,
        target=lambda eta, tau: eta,
        next_auxiliary=_only("policy"),
    ),
    UpdateRule(
        name="omd",
        summary="Plain self-play (multiplicative weights): only its average converges on cyclic preferences.",
        source="arXiv:2502.16852, Theorem 1",
        settings=("step_size",),
        anchors=_only("parent"),
        target=lambda eta, tau: eta,
        next_auxiliary=_only("policy"),
    ),
    UpdateRule(
        name="ipo",
        summary="Best answer to the judged responses, held near the reference policy; no self-play.",
        source="arXiv:2310.12036 v2, Eq. 17",
        settings=("kl_coef",),
        anchors=_only("reference"),
        target=lambda eta, tau: 1 / tau,
        next_auxiliary=_only("policy"),
        labels="hard",
        sampler="dataset",
        auto={"kl_coef": 0.1},
    ),
    UpdateRule(
        name="dpo",
        summary="Direct preference optimisation on the judged pairs; assumes that preferences are transitive.",
        source="arXiv:2305.18290, Eq. 7",
        settings=("beta",),
        anchors=_only("reference"),
        target=lambda eta, tau: 0.0,
        next_auxiliary=_only("policy"),
        pair_loss="logistic",
        scale=lambda beta: beta,
        labels="hard",
        sampler="dataset",
    ),
    UpdateRule(
        name="iterative_dpo",
        summary="DPO from the parent policy on its own responses each round; diverges on cyclic preferences.",
        source="arXiv:2312.11456, the released online form",
        settings=("beta",),
        anchors=_only("parent"),
        target=lambda eta, tau: 0.0,
        next_auxiliary=_only("policy"),
        pair_loss="logistic",
        scale=lambda beta: beta,
    ),
)

PAIR_SELECTIONS = ("all", "random", "best_worst")
UPDATE_RULES: dict[str, UpdateRule] = {row.name: row for row in _ROWS}
