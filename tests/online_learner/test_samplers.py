from collections import Counter
from itertools import permutations, product

import pytest
import torch
from scipy import stats

from online_learner.samplers import acceptance_rate, multi_step_rejection_sample, path_of_temperatures, rejection_sample

REWARDS = torch.tensor([0.7, -0.4, 0.1, 1.2])
DRAWS = 20_000


def as_published(rewards: torch.Tensor, temperature: float, first: tuple[int, ...]) -> float:
    """P(the published algorithm accepts these candidates first, in this order), by summing over its rejected proposals.

    With remaining set R and acceptance a_i = exp((r_i - max_R r) / temperature), a round accepts i with a_i / |R| and rejects
    with 1 - sum_R a_j / |R|: P(next is i) = (a_i / |R|) sum_n (rejection rate)^n.
    """
    remaining, total = set(range(len(rewards))), 1.0
    for i in first:
        best = max(float(rewards[j]) for j in remaining)
        accepted = {j: float(torch.exp((rewards[j] - best) / temperature)) / len(remaining) for j in remaining}
        rejected = 1 - sum(accepted.values())
        total *= accepted[i] * sum(rejected**n for n in range(2000))
        remaining.remove(i)
    return total


def test_kept_candidates_follow_the_published_algorithm():
    """Two of four: each ordered pair as often as the literal accept-or-reject loop accepts it."""
    drawn = rejection_sample(REWARDS.expand(DRAWS, -1), 2, 0.5, torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, drawn.tolist()))
    pairs = list(permutations(range(4), 2))
    expected = [DRAWS * as_published(REWARDS, 0.5, pair) for pair in pairs]
    assert sum(expected) == pytest.approx(DRAWS)
    assert stats.chisquare([counts[pair] for pair in pairs], expected).pvalue > 0.01


def test_the_first_kept_candidate_is_drawn_from_the_tilted_policy():
    """Proposal (.2, .5, .3) over three answers, 64 candidates: what is kept is proposal * exp(r / .5), up to 1 / 64."""
    proposal, rewards, temperature = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.0, -0.5, 0.4]), 0.5
    generator = torch.Generator().manual_seed(1)
    candidates = torch.multinomial(proposal, DRAWS * 64, replacement=True, generator=generator).reshape(DRAWS, 64)
    first = candidates.gather(-1, rejection_sample(rewards[candidates], 1, temperature, generator)).squeeze(-1)
    tilted = proposal * torch.exp(rewards / temperature)
    assert torch.bincount(first, minlength=3) / DRAWS == pytest.approx((tilted / tilted.sum()).numpy(), abs=0.015)


def test_a_pool_is_tilted_exactly_by_enumeration():
    """All 3^2 = 9 pools of two candidates: P(keep y) = sum over pools P(pool) a_y / (a_1 + a_2), for a = exp(r / t)."""
    proposal = torch.tensor([2.0, 5.0, 3.0]).double() / 10
    tilt = torch.exp(torch.tensor([0.0, -0.5, 0.4]).double() / 0.7)
    exact = [0.0, 0.0, 0.0]
    for pool in product(range(3), repeat=2):
        probability = float(proposal[pool[0]] * proposal[pool[1]])
        for y in pool:
            exact[y] += probability * float(tilt[y] / tilt[list(pool)].sum())
    generator = torch.Generator().manual_seed(2)
    pools = torch.multinomial(proposal, DRAWS * 2, replacement=True, generator=generator).reshape(DRAWS, 2)
    kept = pools.gather(-1, rejection_sample(tilt.log()[pools], 1, 1.0, generator)).squeeze(-1)
    counts = torch.bincount(kept, minlength=3)
    assert stats.chisquare(counts.numpy(), [DRAWS * p for p in exact]).pvalue > 0.01


def test_one_step_is_an_independent_draw_from_the_tilted_candidates():
    drawn = multi_step_rejection_sample(REWARDS.expand(DRAWS, -1), 2, [0.5], torch.Generator().manual_seed(3))
    weights = torch.softmax(REWARDS.double() / 0.5, -1)
    counts = Counter(map(tuple, drawn.tolist()))
    pairs = list(product(range(4), repeat=2))
    assert (
        stats.chisquare([counts[p] for p in pairs], [DRAWS * float(weights[p[0]] * weights[p[1]]) for p in pairs]).pvalue > 0.01
    )


def test_many_steps_end_in_the_same_tilted_policy():
    """400 candidates a prompt, so that drawing again at each step loses little: the end is softmax(r / t) over the answers."""
    generator = torch.Generator().manual_seed(4)
    answers = torch.randint(4, (500, 400), generator=generator)
    kept = multi_step_rejection_sample(REWARDS[answers], 40, path_of_temperatures(0.5, 4), generator)
    share = torch.bincount(answers.gather(-1, kept).flatten(), minlength=4) / kept.numel()
    assert share == pytest.approx(torch.softmax(REWARDS / 0.5, -1).numpy(), abs=0.01)


def test_the_steps_of_a_path_accept_more_than_one_step_does():
    """Rewards 0 and 1, t = .25: one step accepts (1 + e^-4) / 2 = .509; a step of four tilts by one, (1 + e^-1) / 2 = .684."""
    rewards = torch.tensor([[0.0, 1.0]])
    assert acceptance_rate(rewards, 0.25) == pytest.approx(0.50916, abs=1e-5)
    first = path_of_temperatures(0.25, 4)[0]
    assert first == 1.0
    assert acceptance_rate(rewards, first) == pytest.approx(0.68394, abs=1e-5)


def test_a_constant_on_the_rewards_changes_nothing():
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    rewards = torch.randn(50, 6)
    one, two = (rejection_sample(rewards + c, 3, 0.5, g) for c, g in zip((0.0, 8.0), generators, strict=True))
    assert torch.equal(one, two)


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="1 to 4 candidates, got 5"):
        rejection_sample(REWARDS.unsqueeze(0), 5, 0.5, torch.Generator())
    with pytest.raises(ValueError, match="fall from step to step"):
        multi_step_rejection_sample(REWARDS.unsqueeze(0), 2, [0.5, 0.5], torch.Generator())
