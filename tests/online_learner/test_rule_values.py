"""The automatic steps: which is taken when, and where they lead in the exact game that the simulated world plays."""

import numpy as np

from online_learner.rule_values import AUTO, automatic_step
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule

CIRCLE = 0.3 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])  # P - 1/2: each class beats the next 80:20


def policy(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def gaps(steps: list[float], *, kl_coef: float, start: np.ndarray) -> list[float]:
    """True duality gap 2 max_y (A pi)_y after each exact step of the default rule, as its row has it."""
    rule, reference = get_rule("onpo_ref"), np.log(start)
    logits, auxiliary, found = reference, reference, []
    for step in steps:
        settings = RuleSettings(step_size=step, kl_coef=kl_coef)
        roles = rule.anchors(settings)
        anchor = roles["auxiliary"] * auxiliary + roles["reference"] * reference
        logits = anchor + rule.target(settings) * CIRCLE @ policy(logits)
        after = rule.next_auxiliary(settings)
        auxiliary = after["policy"] * logits + after["auxiliary"] * auxiliary
        found.append(2 * float((CIRCLE @ policy(logits)).max()))
    return found


def automatic(num_rounds: int) -> list[float]:
    return [automatic_step(True, number) for number in range(num_rounds)]


def test_the_automatic_steps_stay_near_the_equilibrium_that_a_constant_step_goes_around():
    """The base policy of the cyclic world, and sixteen rounds from everywhere."""
    base = np.array([0.18, 0.125, 0.695])
    kl_coef = AUTO[True]["kl_coef"]
    assert gaps([4.0] * 8, kl_coef=kl_coef, start=base)[-1] > 0.19
    assert gaps(automatic(8), kl_coef=kl_coef, start=base)[-1] < 0.1
    starts = np.random.default_rng(0).dirichlet([2, 2, 2], 50)
    late = {
        name: np.mean([gaps(steps, kl_coef=kl_coef, start=start)[-3:] for start in starts])
        for name, steps in (("constant", [4.0] * 16), ("automatic", automatic(16)))
    }
    assert late["automatic"] < 0.09 < 0.14 < late["constant"]


def test_with_cycles_steps_shrink_from_the_fourth_policy_on():
    assert automatic(5) == [5.0, 4.0, 4.0, 3.0, 3.0]
    assert [automatic_step(False, number) for number in range(5)] == [5.0] * 5
