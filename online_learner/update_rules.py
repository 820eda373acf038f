"""The table of update rules; the one place to add a rule. Data and arithmetic only: imports no torch, the console reads it too.

What the columns mean: update_rule.UpdateRule. mirror_descent computes a row; tests/games and tests/online_learner prove it.
"""

from dataclasses import replace
from typing import Any

from online_learner.update_rule import NEEDS, RoleCoefficients, RuleSettings, UpdateRule, only
from storage.errors import UserError


def get_rule(name: str) -> UpdateRule:
    """The rule of that name; UserError that lists the names."""
    if name not in UPDATE_RULES:
        raise UserError(f"unknown update rule {name!r}. Choose one of: {', '.join(UPDATE_RULES)}.")
    return UPDATE_RULES[name]


def list_rules() -> list[dict[str, Any]]:
    """Name, summary, source, settings used and needs (name: in words) of every rule, the default first."""
    return [
        {
            "name": rule.name,
            "summary": rule.summary,
            "source": rule.source,
            "settings": list(rule.settings),
            "needs": {name: NEEDS[name] for name in rule.needs},
        }
        for rule in UPDATE_RULES.values()
    ]


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


def _implicitly_pulled_parent(s: RuleSettings) -> RoleCoefficients:
    kept = 1 / (1 + s.step_size * s.kl_coef)
    return {"parent": kept, "reference": 1 - kept}


_SELF_PLAY = (
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
        name="spo",
        summary="Self-play whose reward is the mean preference against the policy's own samples (minimax winner).",
        source="arXiv:2401.04056, form from memory; the policy-gradient step is replaced by its mirror-descent equivalent",
        settings=("step_size",),
        anchors=only("parent"),
        target=lambda s: s.step_size,
        target_kind="win_rate",
    ),
    UpdateRule(
        name="nash_md",
        summary="Self-play against the mixture of parent and reference policy; slightly off the Nash policy at large steps.",
        source="arXiv:2312.00886, Eq. 3-5",
        settings=("step_size", "kl_coef"),
        anchors=_pulled_parent,
        target=lambda s: s.step_size,
        target_kind="win_rate",
        opponent="mixture",
        needs=("mixture",),
    ),
    UpdateRule(
        name="egpo",
        summary="Extragradient: a half step, then the step against it; two label batches a round, tolerates larger steps.",
        source="arXiv:2503.08942, released code; paper not read",
        settings=("step_size", "kl_coef"),
        anchors=_pulled_parent,
        target=lambda s: s.step_size,
        target_kind="win_rate",
        fits=2,
        opponent="half_step",
        needs=("half_step",),
    ),
    UpdateRule(
        name="nash_mp",
        summary="Mirror-prox: extragradient with the pull taken at the new policy, so no step is too large for it.",
        source="arXiv:2505.19731 v1, abstract read; the closed form is derived here",
        settings=("step_size", "kl_coef"),
        anchors=_implicitly_pulled_parent,
        target=lambda s: s.step_size / (1 + s.step_size * s.kl_coef),
        target_kind="win_rate",
        fits=2,
        opponent="half_step",
        implicit_pull=True,
        needs=("half_step",),
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
        name="online_ipo",
        summary="Best answer to the policy's own responses, held near the reference policy.",
        source="arXiv:2310.12036 v2, Eq. 17, on samples of the parent as in arXiv:2502.16852 (its baselines)",
        settings=("kl_coef",),
        anchors=only("reference"),
        target=lambda s: 1 / s.kl_coef,
        auto={"kl_coef": 0.1},
    ),
    UpdateRule(
        name="rebel",
        summary="Margins follow differences of mean logits (rewards) instead of preferences; also known as pairwise GPO.",
        source="arXiv:2404.16767, released code; with a general preference model's logits: arXiv:2410.02197, Eq. 5.2",
        settings=("step_size",),
        anchors=only("parent"),
        target=lambda s: s.step_size,
        target_kind="logit",
    ),
    UpdateRule(
        name="sppo",
        summary="Self-play on single responses: each log-ratio goes to its win rate minus one half.",
        source="arXiv:2405.00675, released code and Eq. 4.7 as TRL quotes it; eta here is 1 / beta there",
        settings=("step_size",),
        anchors=only("parent"),
        target=lambda s: s.step_size,
        target_kind="win_rate",
        unit="response",
    ),
    UpdateRule(
        name="gpo",
        summary="Self-play on single responses with mean logits for win rates; trusts the scale of the preference model.",
        source="arXiv:2410.02197, Eq. 5.2-5.3; eta here is 1 / beta there",
        settings=("step_size",),
        anchors=only("parent"),
        target=lambda s: s.step_size,
        target_kind="logit",
        unit="response",
    ),
)

_DPO = UpdateRule(
    name="dpo",
    summary="Direct preference optimisation on the judged pairs; assumes that preferences are transitive.",
    source="arXiv:2305.18290, Eq. 7",
    settings=("beta",),
    anchors=only("reference"),
    pair_loss="logistic",
    scale=lambda s: s.beta,
    labels="hard",
    sampler="dataset",
)

_LIKE_DPO = (  # each differs from DPO by what it names
    _DPO,
    replace(
        _DPO,
        name="iterative_dpo",
        summary="DPO from the parent policy on its own responses each round; diverges on cyclic preferences.",
        source="arXiv:2312.11456, the released online form",
        anchors=only("parent"),
        labels="soft",
        sampler="on_policy",
    ),
    replace(
        _DPO,
        name="apo",
        summary="Iterative DPO with momentum: faster on transitive preferences, amplifies cycles.",
        source="arXiv:2410.06293, Eq. 3.5-3.7",
        settings=("beta", "momentum"),
        anchors=lambda s: {"parent": 1 + s.momentum, "previous": -s.momentum},
        labels="soft",
        sampler="extrapolated",
        needs=("previous",),
    ),
    replace(
        _DPO,
        name="rpo",
        summary="DPO that also raises the likelihood of the winners, so that it does not fall.",
        source="arXiv:2405.16436, Eq. 4.6-4.8",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"nll_winner": s.extra_coef * s.beta},
        auto={"extra_coef": 0.005},
    ),
    replace(
        _DPO,
        name="rationale_dpo",
        summary="DPO that also learns the reasons that annotators wrote.",
        source="arXiv:2407.14477; the released code has another form of the second term",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"nll_rationale": s.extra_coef},
        needs=("rationales",),
        auto={"extra_coef": 2.0},
    ),
    replace(
        _DPO,
        name="vpo",
        summary="Pessimistic DPO: stays likely where the reference policy is likely.",
        source="arXiv:2405.19320 v4, offline, abstract read; its form from arXiv:2405.21046, which is the online sign",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"logp_samples": -s.extra_coef * s.beta},
        needs=("reference_samples",),
    ),
    replace(
        _DPO,
        name="xpo",
        summary="Exploring DPO: pairs of all rounds' policies against the reference, rewarded for leaving its samples.",
        # As Algorithm 1: data of all rounds, anchor and bonus on the reference. Each response meets all of this round's samples
        # of the reference, not one of its own round, and labels are the preference model's: the same expectation, less noise.
        source="arXiv:2405.21046, Algorithm 1 and Eq. 5; labels by the preference model, alpha as in TRL",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"logp_samples": s.extra_coef},
        labels="soft",
        sampler="all_rounds_and_reference",
        needs=("reference_samples",),
        auto={"extra_coef": 1e-5},
    ),
    replace(
        _DPO,
        name="hypo",
        summary="DPO on the judged pairs, held near the reference on the parent's own samples too.",
        # The paper draws the k samples of its KL from the policy at every step. Here the parent's are weighed anew at every step
        # by how likely they have become: the same gradient in the limit of many samples, noisier the further the policy moves.
        source="arXiv:2406.01462, abstract and settings (lambda, k of RLOO) read; samples drawn once a round, then reweighed",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"kl_ref": s.extra_coef},
        needs=("policy_samples",),
        auto={"extra_coef": 1e-3},
    ),
    replace(
        _DPO,
        name="preference_degree",
        summary="DPO that also learns to tell how much of a response's key content was removed.",
        source="arXiv:2409.17791 v1, abstract read; its code repository is empty, constants are unknown",
        settings=("beta", "extra_coef"),
        extras=lambda s: {"preference_degree": s.extra_coef},
        needs=("degraded",),
        auto={"extra_coef": 0.1},
    ),
    replace(
        _DPO,
        name="madpo",
        summary="DPO with weights that stretch the margins of close pairs and shrink those of clear ones.",
        source="arXiv:2510.05342, released code; paper not read",
        weight="margin_adaptive",
        needs=("model_logits",),
    ),
    replace(
        _DPO,
        name="upo",
        summary="DPO on self-labelled pairs, weighted by how certain the preference model's heads are.",
        source="arXiv:2409.11212, released code, which draws pairs by certainty; the paper's loss weight was not seen",
        weight="certainty",
        labels="ranking",
        sampler="on_policy",
        needs=("ensemble",),
    ),
    replace(
        _DPO,
        name="odpo",
        summary="DPO that asks for a larger margin where annotators said much better.",
        source="arXiv:2402.10571, released code: an offset of alpha log of how much better",
        settings=("beta", "margin_coef"),
        target=lambda s: s.margin_coef,
        target_kind="winner",
        needs=("strengths",),
    ),
    replace(
        _DPO,
        name="modpo",
        summary="DPO for several objectives: the others' ratings are a margin on the judged one.",
        source="arXiv:2310.03708, released code; paper not read",
        settings=("beta", "main_weight"),
        target=lambda s: (1 - s.main_weight) / s.main_weight,
        target_kind="score",
        scale=lambda s: s.beta / s.main_weight,
        needs=("objectives",),
    ),
    replace(
        _DPO,
        name="pessimistic_dpo",
        summary="DPO that asks more of responses about which the preference model is unsure.",
        source="arXiv:2312.11456, offline option II, as restated elsewhere",
        settings=("beta", "margin_coef"),
        target=lambda s: -s.margin_coef,
        target_kind="score",
        needs=("ensemble",),
    ),
    replace(
        _DPO,
        name="rdpo",
        summary="DPO whose loss is unbiased where a known share of labels is the wrong way round.",
        source="arXiv:2403.00409, as in TRL (robust)",
        settings=("beta", "flip_rate"),
        label_map=lambda p, s: (p - s.flip_rate) / (1 - 2 * s.flip_rate),
    ),
    replace(
        _DPO,
        name="cdpo",
        summary="DPO with softened labels: never quite sure of a verdict.",
        source="label smoothing as in TRL; note by E. Mitchell (2023), not read",
        settings=("beta", "flip_rate"),
        label_map=lambda p, s: (1 - s.flip_rate) * p + s.flip_rate * (1 - p),
    ),
    replace(
        _DPO,
        name="simpo",
        summary="Likelihood per token, no reference policy, a fixed margin.",
        source="arXiv:2405.14734, as in TRL",
        settings=("beta", "margin_coef"),
        anchors=lambda s: {},
        target=lambda s: s.margin_coef,
        target_kind="winner",
        length_normalised=True,
        auto={"beta": 2.0, "margin_coef": 0.5},
    ),
    replace(
        _DPO,
        name="sigmoid_norm",
        summary="DPO on log-ratios per token.",
        source="as in TRL",
        length_normalised=True,
    ),
    replace(
        _DPO,
        name="slic",
        summary="Hinge loss on the judged pairs: stops at a margin.",
        source="arXiv:2305.10425 as normalised in arXiv:2309.06657, Eq. 10",
        pair_loss="hinge",
    ),
    replace(
        _DPO,
        name="rso",
        summary="DPO on responses of the reference policy, kept by rejection sampling as if drawn from the best policy.",
        source="arXiv:2309.06657, section 3.2, Theorem 1 and Eq. 8",
        labels="soft",
        sampler="rejection",
        needs=("candidates",),
        auto={"beta": 0.05},
    ),
    replace(
        _DPO,
        name="multi_step_rejection",
        summary="The same, kept in several milder steps.",
        source="arXiv:2312.11456, as restated elsewhere; acceptance derived",
        labels="soft",
        sampler="multi_step_rejection",
        needs=("candidates",),
    ),
    replace(
        _DPO,
        name="spin",
        summary="Demonstrations win over the policy's own responses; needs no comparisons.",
        source="arXiv:2405.17888, released implicit form",
        anchors=only("parent"),
        sampler="demonstrations",
        needs=("demonstrations",),
    ),
    replace(
        _DPO,
        name="tpo",
        summary="Ranks a list of responses by win rate; pairs count by what swapping them would change.",
        source="arXiv:2410.12854, Eq. 7-8, without the step weights of Eq. 10",
        weight="ndcg",
        labels="ranking",
        sampler="on_policy",
        auto={"beta": 0.5},
    ),
)

PAIR_SELECTIONS = ("all", "random", "best_worst")
UPDATE_RULES: dict[str, UpdateRule] = {row.name: row for row in (*_SELF_PLAY, *_LIKE_DPO)}
