"""What judged pairs cost under every rule: value and gradient against TRL where it has the loss, against arithmetic elsewhere."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from online_learner.extras import EXTRAS, ExtraInputs
from online_learner.mirror_descent import mix_logps, rule_objective
from online_learner.pair_weights import MADPO_THRESHOLD, certainty, stretch
from online_learner.targets import PairFacts
from online_learner.update_rule import RuleSettings, UpdateRule
from online_learner.update_rules import UPDATE_RULES

SETTINGS = RuleSettings(
    step_size=2.5, kl_coef=0.4, beta=0.4, momentum=0.3, flip_rate=0.15, margin_coef=0.7, extra_coef=0.2, main_weight=0.6
)
BETA = SETTINGS.beta
CHOSEN_FIRST = torch.tensor([True, True, False, True, False])  # who of each pair is stored first


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Pairs:
    """Five judged pairs; every (5, 2) tensor is chosen first, rejected second. Sums of log-probabilities, nats."""

    policy: Tensor
    parent: Tensor
    reference: Tensor
    previous: Tensor
    lengths: Tensor
    scores: Tensor
    strengths: Tensor
    logits: Tensor
    samples: Tensor
    samples_reference: Tensor
    rationales: Tensor
    degree_logits: Tensor
    degrees: Tensor

    @property
    def certainty(self) -> Tensor:
        return torch.tensor([0.9, 0.5, 0.0, 1.0, 0.31], dtype=torch.float64)


@pytest.fixture
def pairs() -> Pairs:
    values = [5 * drawn(5, 2, seed=seed) - 20 for seed in range(4)]
    return Pairs(
        policy=values[0].requires_grad_(),
        parent=values[1],
        reference=values[2],
        previous=values[3],
        lengths=torch.tensor([[3, 5], [4, 4], [7, 2], [1, 6], [2, 2]], dtype=torch.float64),
        scores=drawn(5, 2, seed=4),
        strengths=torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0], dtype=torch.float64),
        logits=torch.tensor([0.3, -1.0, 4.0, -7.5, 9.0], dtype=torch.float64),  # of the chosen over the rejected response
        samples=drawn(3, 4, seed=5).requires_grad_(),
        samples_reference=drawn(3, 4, seed=6),
        rationales=drawn(6, seed=7).requires_grad_(),
        degree_logits=drawn(4, 3, seed=8).requires_grad_(),
        degrees=torch.tensor([0, 2, 1, 0]),
    )


def as_stored(chosen_first: Tensor) -> Tensor:
    """The columns in stored order: swapped where the chosen response is second."""
    return torch.where(CHOSEN_FIRST.unsqueeze(-1), chosen_first, chosen_first.flip(-1))


def square_matrix(first_over_second: Tensor, second_over_first: Tensor, diagonal: float = 0.0) -> Tensor:
    """(B, 2, 2) from the value for chosen over rejected and the value for rejected over chosen, in stored order."""
    matrix = torch.full((len(first_over_second), 2, 2), diagonal, dtype=torch.float64)
    matrix[:, 0, 1] = torch.where(CHOSEN_FIRST, first_over_second, second_over_first)
    matrix[:, 1, 0] = torch.where(CHOSEN_FIRST, second_over_first, first_over_second)
    return matrix


def extra_objective(rule: UpdateRule, settings: RuleSettings, inputs: ExtraInputs) -> Tensor:
    return sum((c * EXTRAS[name](inputs) for name, c in rule.extras(settings).items()), torch.zeros((), dtype=torch.float64))


def ours(name: str, pairs: Pairs) -> Tensor:
    """The objective that trains, extras included."""
    rule, one = UPDATE_RULES[name], torch.ones(5, dtype=torch.float64)
    roles = {"parent": pairs.parent, "reference": pairs.reference, "previous": pairs.previous}
    coefficients = rule.anchors(SETTINGS)
    anchor = mix_logps(roles, coefficients) if coefficients else torch.zeros_like(pairs.policy)
    per = pairs.lengths if rule.length_normalised else torch.ones_like(pairs.lengths)
    preferences = square_matrix(one, 0 * one, diagonal=0.5)
    facts = PairFacts(
        scores=as_stored(pairs.scores) if rule.target_kind == "score" else None,
        strengths=square_matrix(pairs.strengths, pairs.strengths, diagonal=1.0),
        model_logits=square_matrix(pairs.logits, -pairs.logits),
        certainty=square_matrix(pairs.certainty, pairs.certainty),
    )
    logps = as_stored(pairs.policy / per)
    extra = ExtraInputs(
        logps=logps,
        preferences=preferences,
        pair_weights=torch.ones(5, 2, 2).triu(1),
        sample_logps=pairs.samples,
        sample_reference_logps=pairs.samples_reference,
        rationale_logps=pairs.rationales,
        degree_logits=pairs.degree_logits,
        degrees=pairs.degrees,
    )
    value = rule_objective(rule, SETTINGS, logps, as_stored(anchor / per), preferences, facts=facts)
    return value + extra_objective(rule, SETTINGS, extra)


def trl_dpo(kinds: list[str], policy: Tensor, reference: Tensor, lengths: Tensor | None = None, weights: Any = None) -> Tensor:
    """The loss that TRL's DPOTrainer computes for these summed log-probabilities, spread evenly over the tokens."""
    trainer = pytest.importorskip("trl").DPOTrainer
    lengths = torch.ones_like(policy) if lengths is None else lengths
    per_sequence = lengths.T.flatten().long()  # TRL's batch: all chosen, then all rejected
    width = int(per_sequence.max())
    mask = (torch.arange(width) < per_sequence.unsqueeze(-1)).long()
    tokens = mask * (policy / lengths).T.flatten().unsqueeze(-1)
    nothing = torch.zeros_like(tokens)

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=tokens, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    completion_mask = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask], 1)  # one token of prompt
    accelerator = SimpleNamespace(device=policy.device, gather=lambda x: x, gather_for_metrics=lambda x: x)
    fields: dict[str, Any] = {"loss_types": kinds, "loss_weights": weights or [1.0] * len(kinds), "beta": BETA}
    fields |= {"label_smoothing": SETTINGS.flip_rate, "precompute_ref_logps": True, "f_divergence_type": "reverse_kl"}
    fields |= dict.fromkeys(["aux_loss_enabled", "use_weighting"], False) | {"ld_alpha": None, "_tp_size": 1}
    fields |= {"_total_train_tokens": 0, "_metrics": {"train": Metrics()}, "accelerator": accelerator}
    inputs = {"input_ids": completion_mask, "attention_mask": completion_mask, "completion_mask": completion_mask}
    inputs |= {"ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1]}
    return trainer._compute_loss(SimpleNamespace(model=SimpleNamespace(training=True), **fields), model, inputs, False)


class Metrics(dict):
    """TRL appends its log lines to lists."""

    def __missing__(self, key: str) -> list:
        return self.setdefault(key, [])


def trl_cpo(kind: str, policy: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The loss of TRL's reference-free CPOTrainer, mean over pairs."""
    pytest.importorskip("trl")
    from trl.experimental.cpo import CPOTrainer

    accelerator = SimpleNamespace(device=policy.device)
    fields = SimpleNamespace(loss_type=kind, beta=BETA, simpo_gamma=SETTINGS.margin_coef, alpha=0.0, accelerator=accelerator)
    fields.label_smoothing = label_smoothing
    found: Any = CPOTrainer.cpo_loss(fields, policy[:, 0], policy[:, 1])  # pyright: ignore[reportArgumentType]
    return found[0].mean()


def dpo(pairs: Pairs) -> Tensor:
    return trl_dpo(["sigmoid"], pairs.policy, pairs.reference)


def margin(pairs: Pairs) -> Tensor:
    ratios = pairs.policy - pairs.reference
    return ratios[:, 0] - ratios[:, 1]


def difference(values: Tensor) -> Tensor:
    return values[:, 0] - values[:, 1]


def madpo_weight(d: float) -> float:
    """w = sigma(c d) / sigma(d) for d > -tau, 1 elsewhere; c from 2 to 1/2 around tau = log 999."""
    if d <= -math.log(999):
        return 1.0
    c = 0.5 + 1.5 / (1 + 2 * math.exp(abs(d) - math.log(999)))  # (c_max - 1) / (1 - c_min) = 1 / .5 = 2
    return (1 + math.exp(-d)) / (1 + math.exp(-c * d))


EXPECTED: dict[str, Callable[[Pairs], Tensor]] = {
    "dpo": dpo,
    "iterative_dpo": lambda p: trl_dpo(["sigmoid"], p.policy, p.parent),
    "apo": lambda p: trl_dpo(["sigmoid"], p.policy, 1.3 * p.parent - 0.3 * p.previous),
    "rpo": lambda p: trl_dpo(["sigmoid", "sft"], p.policy, p.reference, weights=[1.0, 0.2 * BETA]),  # one token a response
    "rationale_dpo": lambda p: dpo(p) - 0.2 * p.rationales.mean(),
    "vpo": lambda p: dpo(p) - 0.2 * BETA * p.samples.mean(),
    "xpo": lambda p: dpo(p) + 0.2 * p.samples.mean(),
    "hypo": lambda p: dpo(p) + 0.2 * (p.samples - p.samples_reference).mean().detach(),  # gradient: see below
    "preference_degree": lambda p: dpo(p) - 0.2 * p.degree_logits.log_softmax(-1)[torch.arange(4), p.degrees].mean(),
    "madpo": lambda p: -(p.logits.new_tensor([madpo_weight(d) for d in p.logits.tolist()]) * logsigmoid(BETA * margin(p))).mean(),
    "upo": lambda p: -(p.certainty * logsigmoid(BETA * margin(p))).mean(),
    "odpo": lambda p: -logsigmoid(BETA * margin(p) - 0.7 * p.strengths.log()).mean(),
    "modpo": lambda p: -logsigmoid((BETA * margin(p) - 0.4 * difference(p.scores)) / 0.6).mean(),
    "pessimistic_dpo": lambda p: -logsigmoid(BETA * margin(p) + 0.7 * difference(p.scores)).mean(),  # Gamma(w) - Gamma(l)
    "rdpo": lambda p: trl_dpo(["robust"], p.policy, p.reference),
    "cdpo": lambda p: trl_cpo("sigmoid", p.policy - p.reference, label_smoothing=SETTINGS.flip_rate),
    "simpo": lambda p: trl_cpo("simpo", p.policy / p.lengths),
    "sigmoid_norm": lambda p: trl_dpo(["sigmoid_norm"], p.policy, p.reference, p.lengths),
    "slic": lambda p: trl_dpo(["hinge"], p.policy, p.reference),
    "rso": dpo,
    "multi_step_rejection": dpo,
    "spin": lambda p: trl_dpo(["sigmoid"], p.policy, p.parent),
    # win rates in a group of two: winner (1 + 1/2) / 2, loser (0 + 1/2) / 2; ranks 1 and 2 whoever leads
    "tpo": lambda p: (2**0.75 - 2**0.25) * (1 / math.log(2) - 1 / math.log(3)) * dpo(p),
    "ipo": lambda p: trl_dpo(["ipo"], p.policy, p.reference),  # TRL divides by length; here a response is one token
}


def gradients(value: Tensor, pairs: Pairs) -> list[Tensor]:
    leaves = [pairs.policy, pairs.samples, pairs.rationales, pairs.degree_logits]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def test_every_rule_that_is_not_a_square_loss_has_its_cost_written_out_here():
    assert set(EXPECTED) == {name for name, rule in UPDATE_RULES.items() if rule.pair_loss != "square"} | {"ipo"}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_judged_pairs_cost_what_the_paper_says(name, pairs):
    mine, expected = ours(name, pairs), EXPECTED[name](pairs)
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    mine_gradients, expected_gradients = gradients(mine, pairs), gradients(expected, pairs)
    if name == "hypo":  # its samples have the gradient of a surrogate
        del mine_gradients[1], expected_gradients[1]
    for found, wanted in zip(mine_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_sppo_of_two_responses_is_the_hard_form_of_trl(pairs):
    # with the verdict as win rate against the other response; TRL adds the two responses up, we take their mean; eta = 1 / beta
    preferences = square_matrix(torch.ones(5), torch.zeros(5), diagonal=0.5)
    facts = PairFacts(scores=as_stored(torch.tensor([[1.0, 0.0]] * 5, dtype=torch.float64)))
    logps, anchor = as_stored(pairs.policy), as_stored(pairs.parent)
    mine = rule_objective(UPDATE_RULES["sppo"], SETTINGS, logps, anchor, preferences, facts=facts)
    expected = trl_dpo(["sppo_hard"], pairs.policy, pairs.parent) / 2
    torch.testing.assert_close(mine, expected)
    for found, wanted in zip(gradients(mine, pairs), gradients(expected, pairs), strict=True):
        torch.testing.assert_close(found, wanted)


def exact_kl(logits: Tensor, reference: Tensor) -> Tensor:
    logps = logits.log_softmax(-1)
    return (logps.exp() * (logps - reference)).sum()


def test_the_kl_extra_is_unbiased_in_value_and_gradient():
    # all pairs of samples of a policy over three responses, weighted by their probability, so that nothing is left to chance
    logits, reference = drawn(3, seed=1).requires_grad_(), drawn(3, seed=2).log_softmax(-1)
    logps = logits.log_softmax(-1)
    value = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            drawn_pair = torch.tensor([[i, j]])
            inputs = ExtraInputs(sample_logps=logps[drawn_pair], sample_reference_logps=reference[drawn_pair])
            probability = (logps[i] + logps[j]).exp().detach()
            value = value + probability * extra_objective(UPDATE_RULES["hypo"], RuleSettings(extra_coef=1.0), inputs)
    expected = exact_kl(logits, reference)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits))


def test_the_kl_extra_on_samples_of_another_policy_is_half_the_variance_of_the_log_ratio():
    logps, reference = drawn(3, 4, seed=1).requires_grad_(), drawn(3, 4, seed=2)
    inputs = ExtraInputs(sample_logps=logps, sample_reference_logps=reference)
    found = extra_objective(UPDATE_RULES["hypo"], RuleSettings(extra_coef=1.0), inputs)
    half_variance = (logps - reference).var(-1).mean() / 2
    torch.testing.assert_close(torch.autograd.grad(found, logps), torch.autograd.grad(half_variance, logps))


def test_the_kl_extra_reweighs_what_an_earlier_policy_drew():
    """Samples of another policy over three responses, as many of each as it is likely: the exact KL of this one, S = 10,000."""
    logits, reference = (3 * drawn(3, seed=1)).requires_grad_(), (3 * drawn(3, seed=2)).log_softmax(-1)
    logps, earlier = logits.log_softmax(-1), (3 * drawn(3, seed=3)).log_softmax(-1)
    samples = torch.repeat_interleave(torch.arange(3), (10_000 * earlier.exp()).round().long())[None]
    shared = {"sample_logps": logps[samples], "sample_reference_logps": reference[samples]}
    hypo, settings = UPDATE_RULES["hypo"], RuleSettings(extra_coef=1.0)
    found = extra_objective(hypo, settings, ExtraInputs(**shared, sample_drawn_logps=earlier[samples]))
    expected = exact_kl(logits, reference)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    gradient, exact = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected))
    torch.testing.assert_close(gradient, exact, atol=1e-3, rtol=0)
    unweighed = torch.autograd.grad(extra_objective(hypo, settings, ExtraInputs(**shared)), logits)[0]
    assert (unweighed - exact).abs().max() > 0.02  # twenty times what is allowed above


def test_likelihood_of_winners_and_exploration_are_the_two_signs_of_one_term(pairs):
    # with the chosen responses as calibration samples, pessimistic VPO is RPO; the sign of XPO is the other one
    chosen = ExtraInputs(
        logps=pairs.policy,
        preferences=torch.tensor([[0.5, 1.0], [0.0, 0.5]]).expand(5, 2, 2),
        pair_weights=torch.ones(5, 2, 2).triu(1),
        sample_logps=pairs.policy[:, :1],
    )
    rpo, vpo, xpo = (extra_objective(UPDATE_RULES[name], SETTINGS, chosen) for name in ("rpo", "vpo", "xpo"))
    torch.testing.assert_close(rpo, vpo)
    torch.testing.assert_close(xpo, -vpo / BETA)


def test_the_margin_of_an_uncertain_response_is_that_of_another_objective():
    # MODPO asks for ((1 - w) / w) D r with scale beta / w; with r = -Gamma w / (1 - w) and beta w for beta it is pessimistic DPO
    half = RuleSettings(beta=0.2, main_weight=0.5, margin_coef=1.0)
    logps, anchor, uncertainty = (drawn(6, 3, seed=seed) for seed in (1, 2, 3))
    preferences = torch.sigmoid(drawn(6, 3, 3, seed=4))
    modpo = rule_objective(UPDATE_RULES["modpo"], half, logps, anchor, preferences, facts=PairFacts(scores=-uncertainty))
    doubled = RuleSettings(beta=0.4, margin_coef=1.0)  # 0.2 / 0.5
    facts = PairFacts(scores=uncertainty)
    torch.testing.assert_close(
        modpo, rule_objective(UPDATE_RULES["pessimistic_dpo"], doubled, logps, anchor, preferences, facts=facts)
    )


@pytest.mark.parametrize("d", [-6.0, -1.0, 0.5, 3.0])
def test_margin_adaptive_weights_are_a_soft_label_where_labels_follow_the_reward_model(d):
    # expected loss sum_y P(y) w(y) l(y) with P = sigma(d): least where beta h = c(|d|) d, as for the soft label sigma(c d)
    rule, settings = UPDATE_RULES["madpo"], RuleSettings(beta=BETA)
    c = 0.5 + 1.5 / (1 + 2 * math.exp(abs(d) - math.log(999)))
    logps = torch.tensor([[c * d / BETA, 0.0]], dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(torch.tensor(d, dtype=torch.float64))
    preferences = torch.tensor([[[0.5, p], [1 - p, 0.5]]], dtype=torch.float64)
    facts = PairFacts(model_logits=torch.tensor([[[0.0, d], [-d, 0.0]]]))
    loss = rule_objective(rule, settings, logps, torch.zeros_like(logps), preferences, facts=facts)
    (gradient,) = torch.autograd.grad(loss, logps)
    assert gradient.abs().max() < 1e-12


def test_margin_adaptive_weights_of_the_released_code_by_hand():
    # c(tau) = 1 and, for a disputed label, w(-1) = sigma(-2) / sigma(-1) = .1192 / .2689 = .44 to .45 as c(1) is just below 2
    assert stretch(torch.tensor(MADPO_THRESHOLD)).item() == pytest.approx(1.0)
    assert madpo_weight(-1.0) == pytest.approx(0.45, abs=0.01)
    assert madpo_weight(-5.0) == pytest.approx(0.04, abs=0.01)


def test_certainty_is_one_minus_bald_and_drops_contradicted_pairs():
    # heads say logit +2 and -1 of (1, 2): BALD = H of the mean of sigma(2) and sigma(-1), less the mean of their H
    first, second = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    first[0, 1], second[0, 1] = 2.0, -1.0
    heads = torch.stack([first - first.T, second - second.T]).unsqueeze(1)
    kept = certainty(heads)[0]
    p = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]

    def entropy(x: float) -> float:
        return -(x * math.log(x) + (1 - x) * math.log(1 - x))

    expected = 1 - (entropy(sum(p) / 2) - (entropy(p[0]) + entropy(p[1])) / 2)
    assert [kept[0, 1].item(), kept[1, 0].item()] == pytest.approx([expected, expected])
    # 1 loses to 2 by .5 but both beat 3 so that 1 has the higher mean: the vote on (1, 2) contradicts the ranking
    vote = torch.tensor([[0.0, -0.5, 3.0], [0.5, 0.0, 1.0], [-3.0, -1.0, 0.0]]).expand(2, 1, 3, 3)
    assert certainty(vote)[0, 0].tolist() == [1.0, 0.0, 1.0]


def test_ranked_lists_weigh_a_pair_by_what_swapping_would_change():
    # 1 beats 2 and 3, 2 beats 3: v = (2.5, 1.5, .5) / 3; log-ratios 0, 2, 1 are ranks 3, 1, 2
    preferences = torch.tensor([[[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]], dtype=torch.float64)
    logps, anchor = torch.tensor([[-3.0, -1.0, -2.0]], dtype=torch.float64), torch.full((1, 3), -3.0, dtype=torch.float64)
    gains = [2 ** (2.5 / 3), 2 ** (1.5 / 3), 2 ** (0.5 / 3)]
    discounts = [1 / math.log(4), 1 / math.log(2), 1 / math.log(3)]
    margins = {(0, 1): -2.0, (0, 2): -1.0, (1, 2): 1.0}
    total = 0.0
    for (i, j), h in margins.items():
        total += abs(gains[i] - gains[j]) * abs(discounts[i] - discounts[j]) * math.log(1 + math.exp(-BETA * h))
    found = rule_objective(UPDATE_RULES["tpo"], SETTINGS, logps, anchor, preferences)
    assert found.item() == pytest.approx(total / 3)


def test_padding_takes_no_rank_in_a_list():
    logps = torch.tensor([[-3.0, -1.0, 7.0]], dtype=torch.float64)
    preferences = torch.tensor([[[0.5, 1.0, 0.5], [0.0, 0.5, 0.5], [0.5, 0.5, 0.5]]], dtype=torch.float64)
    facts = PairFacts(opponent_weights=torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64))
    weights = torch.zeros(1, 3, 3)
    weights[0, 0, 1] = 1.0
    padded = rule_objective(
        UPDATE_RULES["tpo"], SETTINGS, logps, torch.zeros_like(logps), preferences, pair_weights=weights, facts=facts
    )
    alone = rule_objective(UPDATE_RULES["tpo"], SETTINGS, logps[:, :2], torch.zeros(1, 2).double(), preferences[:, :2, :2])
    torch.testing.assert_close(padded, alone)


def test_heads_that_could_not_disagree_more_leave_a_third():
    # two heads sure of opposite winners: H(1/2) - 0 = log 2 nats, so 1 - .693 = .307, the least weight of the released code
    heads = torch.tensor([[[[0.0, 60.0], [-60.0, 0.0]]], [[[0.0, -60.0], [60.0, 0.0]]]], dtype=torch.float64)
    assert certainty(heads)[0, 0, 1].item() == pytest.approx(1 - math.log(2))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odpo", "odpo needs the strengths"),
        ("modpo", "modpo needs scores"),
        ("pessimistic_dpo", "pessimistic_dpo needs scores"),
        ("egpo", "egpo needs scores"),
        ("nash_md", "nash_md needs scores"),
        ("madpo", "needs the preference model's logits"),
        ("upo", "needs the certainty"),
    ],
)
def test_a_rule_without_what_it_needs_is_a_mistake_of_the_caller(name, words):
    logps = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=words):
        rule_objective(UPDATE_RULES[name], SETTINGS, logps, logps, torch.full((1, 2, 2), 0.5))


@pytest.mark.parametrize("name", [name for name, rule in UPDATE_RULES.items() if rule.extras(SETTINGS)])
def test_an_extra_without_its_input_is_a_mistake_of_the_caller(name):
    with pytest.raises(ValueError, match="extra term needs"):
        extra_objective(UPDATE_RULES[name], SETTINGS, ExtraInputs())
