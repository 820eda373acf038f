"""The objective on groups of responses and its diagnostics, by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_learner.mirror_descent import (
    achieved_fraction,
    all_pairs,
    best_worst_pairs,
    choose_pairs,
    margin_r2,
    mix_logps,
    pairwise_margins,
    potential_fraction,
    random_pairs,
    rule_objective,
)
from online_learner.targets import PairFacts, group_win_rates, pairwise_targets
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import UPDATE_RULES
from storage.errors import UserError

ONPO, DPO = UPDATE_RULES["onpo"], UPDATE_RULES["dpo"]
SETTINGS = RuleSettings(step_size=1.0, kl_coef=0.0, beta=0.5)
LOGPS = torch.tensor([[-1.0, -2.0, -4.0]], dtype=torch.float64)
ANCHOR = torch.tensor([[-2.0, -2.0, -2.0]], dtype=torch.float64)  # log-ratios 1, 0, -2
PREFS = torch.tensor([[[0.5, 0.75, 1.0], [0.25, 0.5, 0.5], [0.0, 0.5, 0.5]]], dtype=torch.float64)


def test_the_square_objective_by_hand():
    # margins (1,2): 1, (1,3): 3, (2,3): 2; targets 2 (p - 1/2): .5, 1, 0; ((.5)^2 + 2^2 + 2^2) / 3 = 2.75
    assert rule_objective(ONPO, SETTINGS, LOGPS, ANCHOR, PREFS).item() == pytest.approx(2.75)


def test_the_logistic_objective_by_hand():
    # logits beta h: .5, 1.5, 1 with labels .75, 1, .5
    def cross_entropy(logit: float, label: float) -> float:
        return label * math.log(1 + math.exp(-logit)) + (1 - label) * math.log(1 + math.exp(logit))

    expected = (cross_entropy(0.5, 0.75) + cross_entropy(1.5, 1.0) + cross_entropy(1.0, 0.5)) / 3
    assert rule_objective(DPO, SETTINGS, LOGPS, ANCHOR, PREFS).item() == pytest.approx(expected)


def test_win_rate_targets_by_hand():
    # group rates (2.25, 1.25, 1) / 3 = .75, .4167, .3333; targets 2 (r_i - r_j): .6667, .8333, .1667
    rule = replace(ONPO, target_kind="win_rate")
    expected = ((1 - 2 / 3) ** 2 + (3 - 5 / 6) ** 2 + (2 - 1 / 6) ** 2) / 3
    assert rule_objective(rule, SETTINGS, LOGPS, ANCHOR, PREFS).item() == pytest.approx(expected)


def test_a_pointwise_rule_is_one_row():
    # SPPO: (log-ratio - eta (r - 1/2))^2 per response; each response is in two of the three pairs, so a plain mean over responses
    rule = UPDATE_RULES["sppo"]
    expected = ((1 - 0.25) ** 2 + (0 + 1 / 12) ** 2 + (-2 + 1 / 6) ** 2) / 3
    assert rule_objective(rule, SETTINGS, LOGPS, ANCHOR, PREFS).item() == pytest.approx(expected)


def test_of_two_responses_the_win_rate_difference_is_the_preference():
    prefs = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]])
    rates = group_win_rates(prefs)  # (.7, .3): .7 - .3 = .9 - .5
    torch.testing.assert_close(rates[0, 0] - rates[0, 1], torch.tensor(0.4))


def test_opponent_weights_replace_the_equal_group():
    weights = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(group_win_rates(PREFS, weights), torch.tensor([[1.0, 0.5, 0.5]], dtype=torch.float64))


def test_margins_and_targets_of_all_ordered_pairs():
    assert pairwise_margins(LOGPS, ANCHOR)[0].tolist() == [[0, 1, 3], [-1, 0, 2], [-3, -2, 0]]
    targets = pairwise_targets(ONPO, SETTINGS, PREFS)
    assert targets[0].tolist() == [[0, 0.5, 1], [-0.5, 0, 0], [-1, 0, 0]]
    potential = pairwise_targets(replace(ONPO, target_kind="win_rate"), SETTINGS, PREFS)
    assert potential[0, 0].tolist() == pytest.approx([0, 2 / 3, 5 / 6])


def test_other_kinds_of_target_by_hand():
    simpo, rebel = UPDATE_RULES["simpo"], UPDATE_RULES["rebel"]
    # towards the winner: gamma (2 p - 1) is .7 for a sure winner and 0 for a tie
    winners = pairwise_targets(simpo, RuleSettings(margin_coef=0.7), torch.tensor([[[0.5, 1.0], [0.0, 0.5]]]))
    torch.testing.assert_close(winners[0], torch.tensor([[0.0, 0.7], [-0.7, 0.0]]))
    # mean logits of (.5, .8) and (.2, .5) are +-log(4) / 2
    logits = pairwise_targets(rebel, RuleSettings(step_size=3.0), torch.tensor([[[0.5, 0.8], [0.2, 0.5]]]))
    assert logits[0, 0, 1].item() == pytest.approx(3 * math.log(4))
    # win rates against opponents from outside the group come as scores
    egpo, facts = UPDATE_RULES["egpo"], PairFacts(scores=torch.tensor([[0.9, 0.3, 0.5]]))
    outside = pairwise_targets(egpo, RuleSettings(step_size=2.0), PREFS, facts)
    assert outside[0, 0].tolist() == pytest.approx([0.0, 1.2, 0.8])


def test_weights_choose_pairs_and_padding_is_never_read():
    # only (1,2) with weight 2 and (1,3) with weight 1 of the first prompt: (2 * .25 + 4) / 3 = 1.5
    logps = torch.cat([LOGPS, torch.full((1, 3), torch.nan, dtype=torch.float64)]).requires_grad_()
    weights = torch.zeros(2, 3, 3)
    weights[0, 0, 1], weights[0, 0, 2] = 2.0, 1.0
    loss = rule_objective(ONPO, SETTINGS, logps, ANCHOR.expand(2, -1), PREFS.expand(2, -1, -1), pair_weights=weights)
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert logps.grad is not None
    # d/dh of the mean: weight 2 * 2 * .5 / 3 = 2/3 and 2 * 2 / 3 = 4/3; response 1 gets both, 2 and 3 the negatives
    assert logps.grad[0].tolist() == pytest.approx([2.0, -2 / 3, -4 / 3])
    assert logps.grad[1].tolist() == [0.0, 0.0, 0.0]


def test_parts_of_a_batch_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    logps, anchor = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    prefs = PREFS.expand(4, -1, -1)
    whole = rule_objective(ONPO, SETTINGS, logps, anchor, prefs)
    rows = (slice(0, 1), slice(1, 4))
    parts = [rule_objective(ONPO, SETTINGS, logps[r], anchor[r], prefs[r], total_weight=12.0) for r in rows]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_adding_a_constant_to_all_logps_of_a_prompt_changes_nothing():
    shifted = rule_objective(ONPO, SETTINGS, LOGPS + 7, ANCHOR - 3, PREFS)
    torch.testing.assert_close(shifted, rule_objective(ONPO, SETTINGS, LOGPS, ANCHOR, PREFS))


@pytest.mark.parametrize(
    ("logps", "anchor", "prefs", "weights"),
    [
        (torch.zeros(3), torch.zeros(3), torch.zeros(3, 3), None),
        (torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2, 3, 3), None),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 3, 3), None),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.zeros(1, 3, 3)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(logps, anchor, prefs, weights):
    with pytest.raises(ValueError, match=r"\(N, K, K\), got"):
        rule_objective(ONPO, SETTINGS, logps, anchor, prefs, pair_weights=weights)


def test_no_chosen_pair_is_an_error_and_not_nan():
    with pytest.raises(ValueError, match="no pair is chosen"):
        rule_objective(ONPO, SETTINGS, LOGPS, ANCHOR, PREFS, pair_weights=torch.zeros(1, 3, 3))


def test_anchors_are_mixed_by_coefficient_and_a_missing_policy_is_named():
    logps = {"base": torch.tensor([-1.0, -2.0]), "p1": torch.tensor([-3.0, -1.0])}
    torch.testing.assert_close(mix_logps(logps, {"base": 0.25, "p1": 0.75}), torch.tensor([-2.5, -1.25]))
    with pytest.raises(ValueError, match=r"no log-probabilities for policies \['p2'\]; have \['base', 'p1'\]"):
        mix_logps(logps, {"base": 0.5, "p2": 0.5})


def test_all_pairs_are_the_six_unordered_pairs_of_four():
    assert all_pairs(2, 4).sum((-1, -2)).tolist() == [6, 6]
    assert all_pairs(1, 4)[0].tril().sum() == 0


def test_random_pairs_are_distinct_reproducible_and_uniform():
    weights = random_pairs(6000, 4, 2, torch.Generator().manual_seed(1))
    assert set(weights.sum((-1, -2)).tolist()) == {2.0}
    assert weights.max() == 1
    shares = weights.mean(0)[torch.triu_indices(4, 4, offset=1).unbind()]
    assert shares.tolist() == pytest.approx([1 / 3] * 6, abs=0.03)  # 2 of 6; se sqrt(2/9/6000) = .006
    torch.testing.assert_close(weights, random_pairs(6000, 4, 2, torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="1 to 6 for 4 responses, got 7"):
        random_pairs(1, 4, 7, torch.Generator())


def test_best_and_worst_are_by_win_rate_in_the_group_and_equals_have_none():
    assert best_worst_pairs(PREFS).nonzero().tolist() == [[0, 0, 2]]
    assert best_worst_pairs(torch.full((1, 3, 3), 0.5)).sum() == 0


def test_pairs_are_chosen_by_name_and_best_against_worst_is_refused_for_square_rules():
    generator = torch.Generator().manual_seed(0)
    assert choose_pairs(ONPO, "all", PREFS, generator).sum() == 3
    assert choose_pairs(ONPO, "random", PREFS, generator).sum() == 1  # half of 3, rounded down
    assert choose_pairs(DPO, "best_worst", PREFS, generator).sum() == 1
    assert choose_pairs(replace(ONPO, target_kind="win_rate"), "best_worst", PREFS, generator).sum() == 1
    with pytest.raises(UserError, match="best_worst"):
        choose_pairs(ONPO, "best_worst", PREFS, generator)
    assert choose_pairs(ONPO, "best_worst", PREFS, generator, for_comparison=True).sum() == 1


def groups_of_four(prefs: Tensor) -> Tensor:
    """Preferences (A^4, 4, 4) of every sequence of four actions, so that a mean over groups is a mean over a uniform policy."""
    index = torch.tensor(list(itertools.product(range(len(prefs)), repeat=4)))
    return prefs[index.unsqueeze(-1), index.unsqueeze(-2)]


# four actions standing for short, steps, chatty, chatty: each of the three beats the next 80:20
CYCLE = torch.tensor(
    [[0.5, 0.8, 0.2, 0.2], [0.2, 0.5, 0.8, 0.8], [0.8, 0.2, 0.5, 0.5], [0.8, 0.2, 0.5, 0.5]], dtype=torch.float64
)


def exact_margins(prefs: Tensor, coefficient: float) -> Tensor:
    """Margins of the exact mirror step in every group of four, coefficient (r_i - r_j) with r against the uniform policy."""
    index = torch.tensor(list(itertools.product(range(len(prefs)), repeat=4)))
    rates = prefs.mean(-1)[index]
    return coefficient * (rates.unsqueeze(-1) - rates.unsqueeze(-2))


def test_on_a_cycle_the_potential_fraction_of_an_exact_fit_is_one_and_the_plain_fraction_is_not():
    margins, prefs = exact_margins(CYCLE, 3.0), groups_of_four(CYCLE)
    assert potential_fraction(margins, prefs, 3.0) == pytest.approx(1.0)
    assert potential_fraction(margins / 2, prefs, 3.0) == pytest.approx(0.5)
    # rates: short .425, steps .575, chatty .5. Signed margins over pairs of classes, with weights 1, 2, 2 (of 16, twice):
    # short-steps +(.425 - .575) * 1, steps-chatty +.075 * 2, chatty-short +.075 * 2 = .15; sizes .3 * 5 = 1.5; .15 / 1.5 = .1
    assert achieved_fraction(margins, 3.0 * (prefs - 0.5)) == pytest.approx(0.1)


def test_the_potential_fraction_needs_four_responses_and_preferences_that_differ():
    assert potential_fraction(torch.zeros(1, 3, 3), PREFS, 2.0) is None
    assert potential_fraction(torch.zeros(5, 4, 4), torch.full((5, 4, 4), 0.5), 2.0) is None
    assert potential_fraction(torch.zeros(5, 4, 4), groups_of_four(CYCLE)[:5], 0.0) is None


def test_plain_fraction_and_r2_by_hand():
    # h = (1, -1, 3), m = (2, -2, 2): phi = (1 + 1 + 3) / 6; R2 = 1 - (1 + 1 + 1) / 12
    margins, targets = torch.tensor([1.0, -1.0, 3.0]), torch.tensor([2.0, -2.0, 2.0])
    assert achieved_fraction(margins, targets) == pytest.approx(5 / 6)
    assert margin_r2(margins, targets) == pytest.approx(0.75)
    assert margin_r2(targets, targets) == 1.0
    assert achieved_fraction(margins, torch.zeros(3)) is None
    assert margin_r2(margins, torch.zeros(3)) is None
