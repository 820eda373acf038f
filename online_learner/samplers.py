"""Which of N candidates to keep so that they are drawn from a policy tilted towards its reward. Pure: rewards in, indices out.

N prompts, C candidates per prompt, each drawn independently from the proposal policy. The aim is the tilted policy
proposal(y) exp(reward(y) / temperature), the optimum of the reward held near the proposal by KL. Rewards are logits of the
preference model; adding a constant to a prompt's rewards changes nothing.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def rejection_sample(rewards: Tensor, num_kept: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Statistical rejection sampling without replacement, (N, C) rewards -> (N, num_kept) indices in order of acceptance.

    The algorithm proposes a remaining candidate uniformly, accepts it with exp((r - r_max) / temperature), r_max over those that
    remain, and repeats (arXiv:2309.06657, section 3.2 and Theorem 1). The next accepted is then softmax(r / temperature) of
    what remains, and such a sequence is the order of r / temperature + Gumbel noise: no proposal need be thrown away.
    ValueError where num_kept is not 1 to C.
    """
    if not 1 <= num_kept <= rewards.shape[-1]:
        raise ValueError(f"num_kept must be 1 to {rewards.shape[-1]} candidates, got {num_kept}")
    gumbel = -torch.log(torch.empty(rewards.shape, dtype=torch.float64).exponential_(generator=generator))
    return (rewards.double() / temperature + gumbel).argsort(dim=-1, descending=True)[:, :num_kept]


def multi_step_rejection_sample(
    rewards: Tensor, num_kept: int, temperatures: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Rejection sampling along a path of falling temperatures, (N, C) rewards -> (N, num_kept) indices, some perhaps repeated.

    Step i proposes from what step i-1 kept and accepts with exp((r - r_max)(1/t_i - 1/t_{i-1})), 1/t_0 = 0: each step asks for
    little, so more proposals survive than in one step (arXiv:2312.11456, as restated elsewhere; acceptance derived). Every step
    keeps C draws with replacement, as if sampled from a policy that had learnt the step; the last keeps num_kept.
    ValueError where temperatures do not fall.
    """
    inverse = [0.0, *(1 / t for t in temperatures)]
    if len(inverse) < 2 or any(after <= before for before, after in itertools.pairwise(inverse)):
        raise ValueError(f"temperatures must be positive and fall from step to step, got {list(temperatures)}")
    kept = torch.arange(rewards.shape[-1]).expand_as(rewards)
    for before, after in itertools.pairwise(inverse):
        size = num_kept if after == inverse[-1] else rewards.shape[-1]
        accepted = torch.softmax(rewards.double().gather(-1, kept) * (after - before), dim=-1)
        kept = kept.gather(-1, torch.multinomial(accepted, size, replacement=True, generator=generator))
    return kept


def acceptance_rate(rewards: Tensor, temperature: float) -> float:
    """Share of uniform proposals that one step of rejection sampling accepts first, mean over prompts of (N, C) rewards."""
    return float(torch.exp((rewards - rewards.amax(-1, keepdim=True)) / temperature).mean())


def path_of_temperatures(temperature: float, num_steps: int) -> list[float]:
    """Temperatures whose inverses rise evenly to 1 / temperature: every step tilts by the same amount."""
    return [temperature * num_steps / step for step in range(1, num_steps + 1)]
