"""What a fit trains on: groups of responses to one prompt, with the preference of each pair.

N groups, K responses at most in a group. Groups of fewer responses are padded: their padding has weight 0 and is never read.
A group may hold responses that are in no pair: the rule's extra terms read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from online_learner.logps import TokenisedResponse
from online_learner.targets import PairFacts

PADDING = {"strengths": 1.0}  # a fact of a pair that is not there; 0 unless named


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Responses to one prompt, before padding: k of them."""

    prompt_id: str
    response_ids: Sequence[str]
    preferences: Tensor  # (k, k), P(row preferred to column)
    weights: Tensor  # (k, k), ordered pairs that are trained on
    facts: Mapping[str, Tensor] = field(default_factory=dict)  # fields of PairFacts, (k,) or (k, k)
    members_of: Mapping[str, Tensor] = field(default_factory=dict)  # extra term -> weight of each response in it, (k,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Responses by prompt. ``members[n, k]`` is a row of ``sequences``, -1 where the group has no k-th response."""

    prompt_ids: list[str]  # (N,)
    members: Tensor  # (N, K) long
    sequences: list[TokenisedResponse]
    response_ids: list[str]
    preferences: Tensor  # (N, K, K), P(row preferred to column)
    pair_weights: Tensor  # (N, K, K), ordered pairs (i, j) that are trained on
    facts: PairFacts = field(default_factory=PairFacts)
    members_of: dict[str, Tensor] = field(default_factory=dict)  # extra term -> (N, K), weight of each response in it

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def spread(self, values: Tensor) -> Tensor:
        """Values by row of ``sequences`` as (N, K); padding repeats the first row, which no pair reads."""
        return values[self.members.clamp_min(0)]

    def lengths(self) -> Tensor:
        """Tokens of each response, (N, K)."""
        return self.spread(torch.tensor([float(len(sequence.response_ids)) for sequence in self.sequences]))

    def select(self, rows: Sequence[int]) -> "Groups":
        """Some of the groups; the sequences stay whole."""
        index = torch.tensor(list(rows), dtype=torch.long)
        return replace(
            self,
            prompt_ids=[self.prompt_ids[i] for i in rows],
            members=self.members[index],
            preferences=self.preferences[index],
            pair_weights=self.pair_weights[index],
            facts=PairFacts(**{name: value[index] for name, value in given_facts(self.facts).items()}),
            members_of={name: value[index] for name, value in self.members_of.items()},
        )


def given_facts(facts: PairFacts) -> dict[str, Tensor]:
    """The facts that are there, by name."""
    values = {fact.name: getattr(facts, fact.name) for fact in fields(facts)}
    return {name: value for name, value in values.items() if value is not None}


def collate(groups: Sequence[Group], sequences: Mapping[str, TokenisedResponse]) -> Groups:
    """Groups padded to one width; a response that is in several is kept once."""
    width = max((len(group.response_ids) for group in groups), default=2)
    row_of: dict[str, int] = {}
    for group in groups:
        for response in group.response_ids:
            row_of.setdefault(response, len(row_of))
    members = torch.full((len(groups), width), -1, dtype=torch.long)
    for n, group in enumerate(groups):
        members[n, : len(group.response_ids)] = torch.tensor([row_of[response] for response in group.response_ids])
    facts = sorted({name for group in groups for name in group.facts})
    extras = sorted({name for group in groups for name in group.members_of})
    return Groups(
        prompt_ids=[group.prompt_id for group in groups],
        members=members,
        sequences=[sequences[response] for response in row_of],
        response_ids=list(row_of),
        preferences=_padded([group.preferences for group in groups], width, 0.5),
        pair_weights=_padded([group.weights for group in groups], width, 0.0),
        facts=PairFacts(**{name: _padded([g.facts[name] for g in groups], width, PADDING.get(name, 0.0)) for name in facts}),
        members_of={name: _padded([group.members_of[name] for group in groups], width, 0.0) for name in extras},
    )


def _padded(values: Sequence[Tensor], width: int, filler: float) -> Tensor:
    """(N, width) of vectors, (N, width, width) of matrices."""
    if not values:
        return torch.full((0, width, width), filler)
    padded = torch.full((len(values), *[width] * values[0].ndim), filler)
    for n, value in enumerate(values):
        padded[(n, *(slice(size) for size in value.shape))] = value
    return padded
