"""What a fit trains on: groups of responses to one prompt, with the preference of each pair.

N groups, K responses at most in a group. Groups of fewer responses are padded: their padding has weight 0 and is never read.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_learner.logps import TokenisedResponse

VERDICT_VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Responses by prompt. ``members[n, k]`` is a row of ``sequences``, -1 where the group has no k-th response."""

    prompt_ids: list[str]  # (N,)
    members: Tensor  # (N, K) long
    sequences: list[TokenisedResponse]
    response_ids: list[str]
    preferences: Tensor  # (N, K, K), P(row preferred to column)
    pair_weights: Tensor  # (N, K, K), ordered pairs (i, j) that are trained on

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def spread(self, values: Tensor) -> Tensor:
        """Values by row of ``sequences`` as (N, K); padding repeats the first row, which no pair reads."""
        return values[self.members.clamp_min(0)]

    def select(self, rows: Sequence[int]) -> "Groups":
        """Some of the groups; the sequences stay whole."""
        index = torch.tensor(list(rows), dtype=torch.long)
        return Groups(
            prompt_ids=[self.prompt_ids[i] for i in rows],
            members=self.members[index],
            sequences=self.sequences,
            response_ids=self.response_ids,
            preferences=self.preferences[index],
            pair_weights=self.pair_weights[index],
        )


def groups_of_candidates(
    candidates: Mapping[str, Sequence[str]], sequences: Mapping[str, TokenisedResponse], preferences: Mapping[str, Tensor]
) -> Groups:
    """Groups of the parent's own responses: prompt id -> response ids, and prompt id -> (k, k) preference probabilities."""
    chosen = {prompt: list(ids) for prompt, ids in candidates.items() if len(ids) >= 2}
    width = max((len(ids) for ids in chosen.values()), default=2)
    order = list(chosen)
    probs, weights = torch.full((len(order), width, width), 0.5), torch.zeros(len(order), width, width)
    for n, prompt in enumerate(order):
        k = len(chosen[prompt])
        probs[n, :k, :k] = preferences[prompt]
        weights[n, :k, :k] = torch.ones(k, k).triu(1)
    return _build(order, [chosen[prompt] for prompt in order], width, sequences, probs, weights)


def groups_of_verdicts(judgments: Sequence[Mapping[str, Any]], sequences: Mapping[str, TokenisedResponse]) -> Groups:
    """One group of two responses for each judged pair; its preference is the mean verdict, ties one half."""
    verdicts: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in judgments:
        first, second = sorted((row["response_a_id"], row["response_b_id"]))
        if row["verdict"] in VERDICT_VALUES and first in sequences and second in sequences:
            value = VERDICT_VALUES[row["verdict"]]
            verdicts[row["prompt_id"], first, second].append(value if first == row["response_a_id"] else 1 - value)
    order = sorted(verdicts)
    probs, weights = torch.full((len(order), 2, 2), 0.5), torch.zeros(len(order), 2, 2)
    for n, pair in enumerate(order):
        mean = sum(verdicts[pair]) / len(verdicts[pair])
        probs[n, 0, 1], probs[n, 1, 0] = mean, 1 - mean
        weights[n, 0, 1] = len(verdicts[pair])
    return _build([pair[0] for pair in order], [list(pair[1:]) for pair in order], 2, sequences, probs, weights)


def _build(
    prompt_ids: list[str],
    groups: list[list[str]],
    width: int,
    sequences: Mapping[str, TokenisedResponse],
    preferences: Tensor,
    weights: Tensor,
) -> Groups:
    row_of: dict[str, int] = {}
    for ids in groups:
        for response in ids:
            row_of.setdefault(response, len(row_of))
    members = torch.full((len(groups), width), -1, dtype=torch.long)
    for n, ids in enumerate(groups):
        members[n, : len(ids)] = torch.tensor([row_of[response] for response in ids])
    return Groups(
        prompt_ids=prompt_ids,
        members=members,
        sequences=[sequences[response] for response in row_of],
        response_ids=list(row_of),
        preferences=preferences,
        pair_weights=weights,
    )
