"""Plackett-Luce: a ranking of K responses is one observation, best first chosen from all, then from those that remain.

    P(y_1 > y_2 > ... > y_K) = prod_k exp u(y_k) / sum_{l >= k} exp u(y_l)        arXiv:2301.11270 v5, section 2

K = 2 is Bradley-Terry. Splitting a ranking into its K (K - 1) / 2 pairs is consistent too, but wider (there, section 4) and,
were the pairs counted as independent, far too sure of itself: a ranking holds K - 1 choices. So each of its pairs counts 2 / K
in models of pairs, and the whole ranking counts by the product above in a model of utilities. Where responses are tied, every
order of them is summed over: nothing is said about which of them is better. Position and flips are not modelled within a
ranking.
Shapes: M fits, n pairs, R responses, G rankings, O orders (one a ranking without ties).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from online_learner.preference_models.base import PreferenceFamily
from online_learner.preference_models.bradley_terry import BRADLEY_TERRY
from storage.errors import UserError

PLACKETT_LUCE: PreferenceFamily = replace(
    BRADLEY_TERRY,
    name="plackett_luce",
    summary="Plackett-Luce: Bradley-Terry that reads a ranking of several responses as one observation",
    listwise=True,
)
NOBODY = -1e30  # utility of padding: finite, so that its gradient is 0 and not nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Rankings:
    """Which pairs belong to which ranking, and the rankings themselves."""

    orders: Tensor
    """(O, K) rows of responses, best first, -1 where a ranking is shorter."""
    ranking: Tensor
    """(O,) the ranking of each order."""
    sizes: Tensor
    """(G,) responses ranked."""
    of_pair: Tensor
    """(n,) the ranking of each pair, -1 for a pair that was judged by itself."""

    @property
    def pair_weight(self) -> Tensor:
        """(n,): 2 / K for a pair of a ranking, so that its pairs together count as its K - 1 choices; 1 for others."""
        return torch.where(self.of_pair >= 0, 2 / self.sizes[self.of_pair], 1.0)


def ranking_log_prob(utilities: Tensor, rankings: Rankings) -> Tensor:
    """(M, R) utilities -> (M, G) log probability of each ranking."""
    present = rankings.orders >= 0
    values = utilities[:, rankings.orders.clamp_min(0)].masked_fill(~present, NOBODY)
    remaining = values.flip(-1).logcumsumexp(-1).flip(-1)
    of_order = torch.where(present, values - remaining, 0.0).sum(-1)  # (M, O)
    where = rankings.ranking.expand_as(of_order)
    start = of_order.new_full((len(utilities), len(rankings.sizes)), -torch.inf)
    largest = start.scatter_reduce(1, where, of_order.detach(), "amax")
    summed = torch.zeros_like(largest).scatter_add(1, where, (of_order - largest.gather(1, where)).exp())
    return largest + summed.log()


def spread_over_pairs(pair_log_prob: Tensor, utilities: Tensor, rankings: Rankings) -> Tensor:
    """(M, n) log probabilities in which the pairs of a ranking, at their ``pair_weight``, sum to that of the ranking."""
    share = ranking_log_prob(utilities, rankings) / (rankings.sizes - 1)
    return torch.where(rankings.of_pair >= 0, share[:, rankings.of_pair], pair_log_prob)


def read_rankings(rows: Sequence[Mapping[str, Any]], row_of: Mapping[str, int], sign: Mapping[str, int]) -> Rankings | None:
    """The rankings that judged pairs come from, told by ranking_id; None where there are none.

    Raises UserError where the pairs of a ranking contradict each other or some are missing.
    """
    members: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.get("ranking_id") is not None:
            members.setdefault(row["ranking_id"], []).append(number)
    if not members:
        return None
    of_pair = torch.full((len(rows),), -1)
    orders: list[tuple[int, ...]] = []
    ranking: list[int] = []
    sizes: list[int] = []
    for number, (name, pairs) in enumerate(members.items()):
        of_pair[pairs] = number
        groups = _groups(name, [rows[i] for i in pairs], sign)
        found = [
            tuple(row_of[response] for group in order for response in group) for order in product(*map(permutations, groups))
        ]
        orders += found
        ranking += [number] * len(found)
        sizes.append(len(found[0]))
    padded = [(*order, *[-1] * (max(sizes) - len(order))) for order in orders]
    return Rankings(orders=torch.tensor(padded), ranking=torch.tensor(ranking), sizes=torch.tensor(sizes), of_pair=of_pair)


def _groups(name: str, pairs: Sequence[Mapping[str, Any]], sign: Mapping[str, int]) -> list[list[str]]:
    """The ranked responses, best first, those tied together."""
    beaten: dict[str, int] = {}  # wins minus losses
    for row in pairs:
        for side, factor in (("response_a_id", 1), ("response_b_id", -1)):
            beaten[row[side]] = beaten.get(row[side], 0) + factor * sign[row["verdict"]]
    k = len(beaten)
    agree = all(_sign(beaten[r["response_a_id"]] - beaten[r["response_b_id"]]) == sign[r["verdict"]] for r in pairs)
    if len(pairs) != k * (k - 1) // 2 or not agree:
        raise UserError(
            f"The {len(pairs)} judged pairs with ranking_id {name!r} are not those of one ranking of {k} responses: it has every "
            "pair once and no circle. Correct ranking_id, or leave it empty to read them as pairs."
        )
    return [[response for response in beaten if beaten[response] == place] for place in sorted({*beaten.values()}, reverse=True)]


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
