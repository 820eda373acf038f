"""The table of update rules: coefficients by hand, settings refused, mixtures of policies."""

from dataclasses import fields, replace

import pytest

from online_learner.extras import EXTRAS
from online_learner.losses import PAIR_LOSSES
from online_learner.pair_weights import PAIR_WEIGHTS
from online_learner.update_rule import NEEDS, RuleSettings, mix_anchors
from online_learner.update_rules import UPDATE_RULES, check_pair_selection, get_rule, list_rules
from storage.errors import UserError


def test_the_reference_rule_by_hand():
    # eta 2, tau .05: q = .9, anchors q^2 = .81 and .19, target eta (1 + q) = 3.8, next auxiliary 1 / 1.9 and .9 / 1.9
    rule, settings = UPDATE_RULES["onpo_ref"], RuleSettings(step_size=2, kl_coef=0.05)
    assert rule.anchors(settings) == pytest.approx({"auxiliary": 0.81, "reference": 0.19})
    assert rule.target(settings) == pytest.approx(3.8)
    assert rule.next_auxiliary(settings) == pytest.approx({"policy": 1 / 1.9, "auxiliary": 0.9 / 1.9})


@pytest.mark.parametrize(
    ("name", "coefficient"),
    # eta 2, tau .25: margins for p = 1 are half of these; for IPO 1 / (2 tau) = 2, for ONPO in one fit 2 eta / 2 = 2
    [("onpo_ref", 3.0), ("onpo", 4.0), ("onpo_two_fit", 2.0), ("inpo", 2.0), ("omd", 2.0), ("ipo", 4.0), ("dpo", 0.0)],
)
def test_target_coefficients_by_hand(name, coefficient):
    assert UPDATE_RULES[name].target(RuleSettings(step_size=2.0, kl_coef=0.25)) == coefficient


@pytest.mark.parametrize("name", list(UPDATE_RULES))
def test_coefficients_of_every_rule_sum_to_one_or_are_none(name):
    rule = UPDATE_RULES[name]
    for step_size, kl_coef in ((1.0, 0.0), (5.0, 0.01), (4.0, 0.05)):
        settings = RuleSettings(step_size=step_size, kl_coef=kl_coef)
        assert sum(rule.anchors(settings).values()) == pytest.approx(0.0 if name == "simpo" else 1.0)
        assert sum(rule.next_auxiliary(settings).values()) == pytest.approx(1.0)


def test_the_default_rule_is_listed_first_with_its_settings():
    rows = list_rules()
    assert [row["name"] for row in rows] == list(UPDATE_RULES)
    assert rows[0]["name"] == "onpo_ref"
    assert rows[0]["settings"] == ["step_size", "kl_coef"]
    assert rows[0]["needs"] == {"auxiliary": "the mixture of policies that earlier rounds carried on"}
    assert all(row["summary"].endswith(".") and row["source"] for row in rows)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("onpo_ref", {"step_size": 20.0, "kl_coef": 0.05, "beta": 0.1}, r"step_size \* kl_coef .* got 20.0 \* 0.05 = 1"),
        ("onpo_ref", {"step_size": 1.0, "kl_coef": -0.1, "beta": 0.1}, "kl_coef must be zero or a positive number, got -0.1"),
        ("onpo", {"step_size": 0.0, "kl_coef": 0.0, "beta": 0.1}, "step_size must be a positive number, got 0.0"),
        ("ipo", {"step_size": 1.0, "kl_coef": 0.0, "beta": 0.1}, "kl_coef must be a positive number, got 0.0"),
        ("dpo", {"step_size": 1.0, "kl_coef": 0.0, "beta": float("nan")}, "beta must be a positive number, got nan"),
        ("apo", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("rdpo", {"flip_rate": 0.5}, r"flip_rate must be in \[0, 0.5\), got 0.5"),
        ("modpo", {"main_weight": 0.0}, r"main_weight must be in \(0, 1\], got 0.0"),
        ("rpo", {"extra_coef": -1.0}, "extra_coef must be zero or a positive number, got -1.0"),
        ("simpo", {"margin_coef": float("inf")}, "margin_coef must be zero or a positive number, got inf"),
        ("egpo", {"step_size": 20.0, "kl_coef": 0.05}, "go past the reference policy"),
    ],
)
def test_settings_that_break_a_rule_are_refused_by_name_and_value(name, settings, words):
    with pytest.raises(UserError, match=words):
        UPDATE_RULES[name].check(RuleSettings(**settings))


def test_settings_that_a_rule_does_not_use_are_not_checked():
    UPDATE_RULES["onpo"].check(RuleSettings(step_size=100.0, kl_coef=0.5, beta=-1.0))  # the paper's step of 100, no pull
    UPDATE_RULES["nash_mp"].check(RuleSettings(step_size=100.0, kl_coef=0.5))  # its pull has no upper limit
    UPDATE_RULES["onpo_ref"].check(RuleSettings(step_size=5.0, kl_coef=0.0))


def test_an_unknown_rule_is_answered_with_the_names():
    with pytest.raises(UserError, match=r"unknown update rule 'opno'.*onpo_ref, onpo, onpo_two_fit, inpo"):
        get_rule("opno")
    assert get_rule("inpo") is UPDATE_RULES["inpo"]


@pytest.mark.parametrize("name", ["onpo_ref", "onpo", "onpo_two_fit", "inpo", "omd", "ipo", "online_ipo"])
def test_best_against_worst_is_refused_where_it_moves_the_fixed_point(name):
    with pytest.raises(UserError, match=f"best_worst.*{name}.*Use pairs = 'all' or 'random'"):
        check_pair_selection(UPDATE_RULES[name], "best_worst")
    check_pair_selection(UPDATE_RULES[name], "random")


def test_best_against_worst_is_accepted_by_logistic_rules_and_unknown_selections_by_none():
    check_pair_selection(UPDATE_RULES["dpo"], "best_worst")
    with pytest.raises(UserError, match=r"unknown pair selection 'top'.*all, random, best_worst"):
        check_pair_selection(UPDATE_RULES["dpo"], "top")


def test_equal_policies_are_merged():
    # in the first round everything is the base policy: .81 + .19
    assert mix_anchors({"auxiliary": 0.81, "reference": 0.19}, {"base": 1.0}, "base", "base") == pytest.approx({"base": 1.0})
    mixed = mix_anchors({"auxiliary": 0.81, "reference": 0.19}, {"base": 0.4, "p1": 0.6}, "p1", "base")
    assert mixed == pytest.approx({"base": 0.81 * 0.4 + 0.19, "p1": 0.81 * 0.6})


def test_the_auxiliary_mixture_of_three_rounds_halves_each_time():
    rule, mixture = UPDATE_RULES["onpo"], {"p0": 1.0}
    for new, parent in (("p1", "p0"), ("p2", "p1"), ("p3", "p2")):
        mixture = mix_anchors(rule.next_auxiliary(RuleSettings()), mixture, parent, "p0", policy_id=new)
    assert mixture == pytest.approx({"p0": 1 / 8, "p1": 1 / 8, "p2": 1 / 4, "p3": 1 / 2})


def test_momentum_counts_from_the_policy_before_the_parent_and_is_none_in_the_first_round():
    roles = UPDATE_RULES["apo"].anchors(RuleSettings(momentum=0.3))
    assert mix_anchors(roles, {"p0": 1.0}, "p2", "p0", previous_id="p1") == pytest.approx({"p2": 1.3, "p1": -0.3})
    assert mix_anchors(roles, {"p0": 1.0}, "p0", "p0") == pytest.approx({"p0": 1.0})


def test_a_rule_without_anchors_has_no_mixture():
    assert mix_anchors(UPDATE_RULES["simpo"].anchors(RuleSettings()), {"p0": 1.0}, "p1", "p0") == {}


def test_every_row_names_what_exists():
    settings = {field.name for field in fields(RuleSettings)}
    for rule in UPDATE_RULES.values():
        assert set(rule.settings) <= settings
        assert set(rule.auto or {}) <= set(rule.settings)
        assert set(rule.needs) <= set(NEEDS)
        assert rule.pair_loss in PAIR_LOSSES
        assert rule.weight in PAIR_WEIGHTS
        assert set(rule.extras(RuleSettings())) <= set(EXTRAS)
        assert ("half_step" in rule.needs) == (rule.opponent == "half_step" and rule.fits == 2)
        assert ("mixture" in rule.needs) == (rule.opponent == "mixture")


def test_settings_that_a_rule_names_change_it_and_others_do_not():
    changed = {"step_size": 2.0, "kl_coef": 0.3, "beta": 0.7, "momentum": 0.6, "flip_rate": 0.3, "margin_coef": 3.0}
    changed |= {"extra_coef": 0.5, "main_weight": 0.9}

    def numbers(rule, settings):
        mapped = rule.label_map(0.9, settings) if rule.label_map else None
        mixtures = rule.anchors(settings), rule.next_auxiliary(settings), rule.extras(settings)
        return rule.target(settings), rule.scale(settings), mapped, *mixtures

    base = RuleSettings(step_size=1.0, kl_coef=0.1)
    for rule in UPDATE_RULES.values():
        for name, value in changed.items():
            differs = numbers(rule, base) != numbers(rule, replace(base, **{name: value}))
            assert differs == (name in rule.settings), (rule.name, name)


ON_POLICY = {
    "onpo_ref",
    "onpo",
    "onpo_two_fit",
    "inpo",
    "omd",
    "spo",
    "nash_md",
    "egpo",
    "nash_mp",
    "online_ipo",
    "rebel",
    "sppo",
}
ON_POLICY |= {"gpo", "iterative_dpo", "upo", "tpo"}
ELSEWHERE = {"extrapolated": {"apo"}, "all_rounds_and_reference": {"xpo"}, "demonstrations": {"spin"}, "rejection": {"rso"}}
ELSEWHERE |= {"multi_step_rejection": {"multi_step_rejection"}}


def names(column, value):
    return {name for name, rule in UPDATE_RULES.items() if getattr(rule, column) == value}


def test_who_makes_the_pairs_and_who_labels_them():
    assert names("sampler", "on_policy") == ON_POLICY
    assert {sampler: names("sampler", sampler) for sampler in ELSEWHERE} == ELSEWHERE
    from_people = names("sampler", "dataset")
    assert len(from_people) == len(UPDATE_RULES) - len(ON_POLICY) - len(ELSEWHERE)
    assert names("labels", "hard") == from_people | {"spin"}
    assert names("labels", "ranking") == {"upo", "tpo"}
    assert names("length_normalised", True) == {"simpo", "sigmoid_norm"}


def test_who_the_opponent_of_a_win_rate_is():
    assert names("opponent", "half_step") == {"egpo", "nash_mp"}
    assert names("opponent", "mixture") == {"nash_md"}
    assert names("target_kind", "win_rate") == {"egpo", "nash_mp", "nash_md", "spo", "sppo"}
    assert names("target_kind", "logit") == {"rebel", "gpo"}
    assert names("unit", "response") == {"sppo", "gpo"}


@pytest.mark.parametrize("name", [name for name, rule in UPDATE_RULES.items() if "auxiliary" not in rule.needs])
def test_rules_without_optimism_carry_the_new_policy_alone(name):
    roles = UPDATE_RULES[name].next_auxiliary(RuleSettings(step_size=2, kl_coef=0.1))
    assert mix_anchors(roles, {"p0": 1.0}, "p0", "p0", policy_id="p1") == {"p1": 1.0}


def test_small_coefficients_are_dropped_on_request_and_the_rest_renormalised():
    roles, auxiliary = {"auxiliary": 1.0}, {"p0": 0.05, "p1": 0.15, "p2": 0.8}
    assert mix_anchors(roles, auxiliary, "p2", "p0") == pytest.approx(auxiliary)
    assert mix_anchors(roles, auxiliary, "p2", "p0", drop_small=True) == pytest.approx({"p1": 0.15 / 0.95, "p2": 0.8 / 0.95})


def test_a_small_pull_to_the_reference_is_never_dropped():
    """eta 5, tau .01: INPO's pull is .05, less than 1/16, and without it INPO would be plain self-play."""
    roles = get_rule("inpo").anchors(RuleSettings(step_size=5.0, kl_coef=0.01))
    assert mix_anchors(roles, {"p1": 1.0}, "p1", "p0", drop_small=True) == pytest.approx({"p1": 0.95, "p0": 0.05})


def test_a_mixture_that_does_not_sum_to_one_or_names_a_strange_role_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="must sum to 1"):
        mix_anchors({"auxiliary": 1.0}, {"p0": 0.5}, "p0", "p0")
    with pytest.raises(ValueError, match="role 'policy' is not one of"):
        mix_anchors({"policy": 1.0}, {"p0": 1.0}, "p0", "p0")
