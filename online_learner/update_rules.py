"""The table of update rules; the one place to add a rule. Data and arithmetic only: imports no torch, the console reads it too.

What the columns mean: update_rule.UpdateRule. mirror_descent computes a row; tests/games and tests/online_learner prove it.
"""

from typing import Any

from online_learner.update_rule import RoleCoefficients, RuleSettings, UpdateRule, only
from storage.errors import UserError


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


def _kept(s: RuleSettings) -> float:
    """q = 1 - eta tau, the share of the start that a step keeps."""
    return 1 - s.step_size * s.kl_coef


def _onpo_ref_anchors(s: RuleSettings) -> RoleCoefficients:
    kept = _kept(s)
    return {"auxiliary": kept**2, "reference": 1 - kept**2}


def _onpo_ref_next(s: RuleSettings) -> RoleCoefficients:
    kept = _kept(s)
    return {"policy": 1 / (1 + kept), "auxiliary": kept / (1 + kept)}


def _pulled_parent(s: RuleSettings) -> RoleCoefficients:
    kept = _kept(s)
    return {"parent": kept, "reference": 1 - kept}


def _geometric_mean(s: RuleSettings) -> RoleCoefficients:
    return {"policy": 0.5, "auxiliary": 0.5}


_ROWS = (
    UpdateRule(
        name="onpo_ref",
        summary="Optimistic self-play with a pull to the reference policy; one fit a round. The default.",
        source="arXiv:2502.16852 with the reference mixture of arXiv:2407.00617 in both steps; one fit for both is derived here",
        settings=("step_size", "kl_coef"),
        anchors=_onpo_ref_anchors,
        target=lambda s: s.step_size * (1 + _kept(s)),
        next_auxiliary=_onpo_ref_next,
        needs=("auxiliary",),
    ),
    UpdateRule(
        name="onpo",
        summary="Optimistic self-play towards the Nash policy of the plain game; one fit a round.",
        source="arXiv:2502.16852, Algorithm 1; its two fits in one is derived here",
        settings=("step_size",),
        anchors=only("auxiliary"),
        target=lambda s: 2 * s.step_size,
        next_auxiliary=_geometric_mean,
        needs=("auxiliary",),
    ),
    UpdateRule(
        name="onpo_two_fit",
        summary="The same with the paper's two fits a round: twice the training time, for comparison.",
        # The first fit is not kept as a policy: the geometric mean below is the same policy where the fits are exact.
        source="arXiv:2502.16852, Algorithm 1",
        settings=("step_size",),
        anchors=only("auxiliary"),
        target=lambda s: s.step_size,
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
        target=lambda s: s.step_size,
    ),
    UpdateRule(
        name="omd",
        summary="Plain self-play (multiplicative weights): only its average converges on cyclic preferences.",
        source="arXiv:2502.16852, Theorem 1",
        settings=("step_size",),
        anchors=only("parent"),
        target=lambda s: s.step_size,
    ),
    UpdateRule(
        name="ipo",
        summary="Best answer to the judged responses, held near the reference policy; no self-play.",
        source="arXiv:2310.12036 v2, Eq. 17",
        settings=("kl_coef",),
        anchors=only("reference"),
        target=lambda s: 1 / s.kl_coef,
        labels="hard",
        sampler="dataset",
        auto={"kl_coef": 0.1},
    ),
    UpdateRule(
        name="dpo",
        summary="Direct preference optimisation on the judged pairs; assumes that preferences are transitive.",
        source="arXiv:2305.18290, Eq. 7",
        settings=("beta",),
        anchors=only("reference"),
        pair_loss="logistic",
        scale=lambda s: s.beta,
        labels="hard",
        sampler="dataset",
    ),
    UpdateRule(
        name="iterative_dpo",
        summary="DPO from the parent policy on its own responses each round; diverges on cyclic preferences.",
        source="arXiv:2312.11456, the released online form",
        settings=("beta",),
        anchors=only("parent"),
        pair_loss="logistic",
        scale=lambda s: s.beta,
    ),
)

PAIR_SELECTIONS = ("all", "random", "best_worst")
UPDATE_RULES: dict[str, UpdateRule] = {row.name: row for row in _ROWS}
