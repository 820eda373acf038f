"""What a model reads to judge a pair: the prompt, the other response, then the one being scored; an annotator's past first.

A score f of such an ordered pair becomes log odds by f(this one last) - f(the other one last), which changes its sign and
nothing else when the responses change places. The past is the annotator-conditioned few-shot model of arXiv:2502.19312 (the
abstract was read, not its prompt format: this one is our own): labelled pairs of the same person, each as prompt, preferred
and rejected response. Shapes: n judgments; row 2 i has a last, row 2 i + 1 has b last.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from online_learner.features import TokenisedText
from online_learner.pairs_file import Pair, Side, Turns

PAST_SHARE = 0.5  # of the context that an annotator's past may fill
RESPONSE_SHARE = 0.4  # of the rest, for each of the two responses; the prompt keeps what is left, its end first
OTHER, THIS, PREFERRED, REJECTED, END = "\n\nOther response:\n", "\n\nResponse:\n", "\n\nPreferred:\n", "\n\nRejected:\n", "\n\n"


@dataclass(frozen=True)
class RowMaker:
    """Tokens of ordered pairs, at most ``limit``. ``mean`` averages the last response; otherwise its last token is read."""

    tokenizer: Any
    limit: int
    mean: bool

    def ordered(self, pair: Pair, last: str, past: Sequence[Pair] = ()) -> TokenisedText:
        """The pair with side ``last`` (a or b) at the end. Responses too long lose their end, a prompt its beginning."""
        shared, rest = _split_turns(pair)
        this, other = (rest[0], rest[1]) if last == "a" else (rest[1], rest[0])
        start, marks = self._start, (self._tokens(OTHER), self._tokens(THIS))
        history = self._history(past)
        room = self.limit - len(start) - len(history) - len(marks[0]) - len(marks[1])
        share = int(RESPONSE_SHARE * room)
        other_ids, this_ids = self._tokens(other)[:share], self._tokens(this)[:share] or marks[1][-1:]
        prompt = self._tokens(shared)[-(room - 2 * share) :]
        ids = [*start, *history, *prompt, *marks[0], *other_ids, *marks[1], *this_ids]
        return TokenisedText(ids, len(this_ids) if self.mean else 1, len(self._tokens(this)))

    def _history(self, past: Sequence[Pair]) -> list[int]:
        if not past:
            return []
        share = int(PAST_SHARE * self.limit / len(past))
        ids: list[int] = []
        for pair in past:
            shared, (a, b) = _split_turns(pair)
            better, worse = (a, b) if pair.verdict == "a" else (b, a)
            parts = [
                self._tokens(shared),
                self._tokens(PREFERRED),
                self._tokens(better),
                self._tokens(REJECTED),
                self._tokens(worse),
            ]
            room = max(share - len(parts[1]) - len(parts[3]) - 2, 3) // 3
            item = [*parts[0][-room:], *parts[1], *parts[2][:room], *parts[3], *parts[4][:room]]
            ids += [*item, *self._tokens("\n\n")]
        return ids

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer puts before any text: [CLS], <s> or nothing."""
        whole, bare = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        return whole[: whole.index(bare[0])] if bare and bare[0] in whole else []

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        return {}

    def _tokens(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self._known[text]


@dataclass(frozen=True)
class Pasts:
    """Which labelled pairs of an annotator may stand before a judged one: never its own prompt, never another fold.

    Held-out judgments are then in no text that a fit learns from. ``fold_of`` is empty where pairs come from another file.
    """

    labelled: Sequence[Pair]
    fold_of: Mapping[str, int]  # by prompt group

    @cached_property
    def _by_annotator(self) -> dict[str | None, list[Pair]]:
        found: dict[str | None, list[Pair]] = defaultdict(list)
        for pair in self.labelled:
            if pair.annotator is not None and pair.verdict in ("a", "b"):
                found[pair.annotator].append(pair)
        return found

    def draw(self, pair: Pair, shots: int, coin: random.Random) -> list[Pair]:
        """Up to ``shots`` past pairs in random order; none for an unknown annotator."""
        fold = self.fold_of.get(pair.group)
        allowed = [
            past
            for past in self._by_annotator.get(pair.annotator, [])
            if past.group != pair.group and (not self.fold_of or self.fold_of.get(past.group) == fold)
        ]
        return coin.sample(allowed, min(shots, len(allowed)))


def ordered_rows(maker: RowMaker, pairs: Sequence[Pair], pasts: Pasts, shots: int, seed: int) -> list[TokenisedText]:
    """(2 n): both orders of every pair, after the same past of its annotator."""
    coin = random.Random(seed)
    rows: list[TokenisedText] = []
    for pair in pairs:
        past = pasts.draw(pair, shots, coin) if shots else []
        rows += [maker.ordered(pair, "a", past), maker.ordered(pair, "b", past)]
    return rows


def _split_turns(pair: Pair) -> tuple[str, tuple[str, str]]:
    """Text of the turns that both sides share, and what each side says after them."""
    same = 0
    for left, right in zip(pair.a.turns, pair.b.turns, strict=False):
        if left != right:
            break
        same += 1
    return _text(pair.a.turns[:same]), (_own(pair.a, same), _own(pair.b, same))


def _own(side: Side, same: int) -> str:
    return "\n".join(text for text in (_text(side.turns[same:]), side.response) if text)


def _text(turns: Turns) -> str:
    return "\n".join(content for _, content in turns)
