"""Folds and bootstrap samples of prompts: judgments of one prompt are never split. P prompts, n judgments."""

import torch
from torch import Tensor


def prompt_folds(prompt: Tensor, num_folds: int, generator: torch.Generator) -> Tensor:
    """(n,) prompt numbers 0 .. P-1 -> (n,) fold numbers; folds hold equally many prompts, give or take one."""
    num_prompts = int(prompt.max()) + 1
    fold_of_prompt = torch.empty(num_prompts, dtype=torch.long)
    fold_of_prompt[torch.randperm(num_prompts, generator=generator)] = torch.arange(num_prompts) % num_folds
    return fold_of_prompt[prompt]


def bootstrap_weights(prompt: Tensor, include: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """(num_samples, n): how often each judgment's prompt was drawn, with replacement, among prompts marked in (n,) include."""
    num_prompts = int(prompt.max()) + 1
    pool = prompt[include].unique()
    drawn = pool[torch.randint(len(pool), (num_samples, len(pool)), generator=generator)]
    counts = torch.zeros(num_samples, num_prompts).scatter_add_(1, drawn, torch.ones(drawn.shape))
    return counts[:, prompt]
