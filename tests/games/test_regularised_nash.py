"""Rules with a pull to the reference end at the Nash policy of the game with a KL penalty, log pi = log ref + r_pi / tau."""

import pytest
import torch
from torch import Tensor

from online_learner.games import GameState, start_state, step, uniform_game, win_rates
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import UPDATE_RULES

PREFS = uniform_game(10, torch.Generator().manual_seed(1))
REFERENCE = torch.randn(10, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(-1)


def nash(tau: float) -> Tensor:
    """Fixed point of the averaged map log pi -> log ref + r / tau, log-probabilities."""
    logps = REFERENCE.log()
    for _ in range(20_000):
        best = REFERENCE.log() + win_rates(PREFS, logps.exp()) / tau
        logps = (0.98 * logps + 0.02 * best).log_softmax(-1)
    return logps


def residual(logps: Tensor, tau: float) -> float:
    wanted = (REFERENCE.log() + win_rates(PREFS, logps.exp()) / tau).log_softmax(-1)
    return (logps - wanted).abs().max().item()


@pytest.mark.parametrize(
    ("name", "eta", "tau"),
    [
        ("onpo_ref", 0.5, 0.1),
        ("inpo", 0.5, 0.1),
        ("egpo", 0.5, 0.1),
        ("nash_mp", 0.5, 0.1),
        ("onpo_ref", 2.0, 0.03),
        ("egpo", 2.0, 0.03),
        ("nash_mp", 2.0, 0.03),
        ("nash_mp", 3.0, 0.5),  # eta tau = 1.5: past the reference for the other rules
    ],
)
def test_the_last_iterate_reaches_the_regularised_nash_policy(name, eta, tau):
    state = start_state(REFERENCE)
    for _ in range(1500):
        state = step(UPDATE_RULES[name], PREFS, state, RuleSettings(step_size=eta, kl_coef=tau))
    assert residual(state.policy, tau) < 1e-9


def test_nash_md_with_its_falling_step_keeps_the_published_bound():
    # arXiv:2312.00886, Theorem 1: with eta_t = 2 / (tau (t + 2)), KL(pi*, pi_T) <= 8 / (tau^2 (T + 1)) for every T
    tau = 0.3
    target, state, divergence = nash(tau), start_state(REFERENCE), torch.inf
    assert residual(target, tau) < 1e-9
    for t in range(400):
        state = step(UPDATE_RULES["nash_md"], PREFS, state, RuleSettings(step_size=2 / (tau * (t + 2)), kl_coef=tau))
        divergence = (target.exp() * (target - state.policy)).sum().item()
        assert divergence <= 8 / (tau**2 * (t + 2))
    assert divergence < 1e-3


def test_nash_md_with_a_constant_step_ends_beside_the_nash_policy():
    # its opponent is the mixture, not the policy, so its fixed point is another: nearer for smaller steps
    def end(eta: float) -> float:
        state: GameState = start_state(REFERENCE)
        for _ in range(3000):
            state = step(UPDATE_RULES["nash_md"], PREFS, state, RuleSettings(step_size=eta, kl_coef=0.1))
        return residual(state.policy, 0.1)

    assert 1e-6 < end(0.1) < end(0.5) < end(2.0)
