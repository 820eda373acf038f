"""Which tokens may come next in an answer of the corpus, so that training can push down everything else.

One sampled answer shows one of the seven tips that could have come; the corpus knows all seven. The mass a model puts outside the
possible tokens is exactly what garbles a sentence.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import tiny_corpus
from tiny_corpus import Item
from transformers import PreTrainedTokenizerFast

ANSWERS_PER_STYLE = 250


@dataclass(slots=True)
class Continuations:
    """Next tokens seen after each place in the answers of the topics met so far."""

    tokenizer: PreTrainedTokenizerFast
    end_token: str
    seen: dict[str, dict[tuple, set[int]]] = field(default_factory=dict)

    def of(self, item: Item, style: str, tokens: list[int]) -> list[list[int]]:
        """For each token of an answer, every token that could stand in its place given the ones before it."""
        known = self.seen.get(item.do)
        if known is None:
            known = self.seen[item.do] = self._list(item)
        return [list(known[place] | {token}) for place, token in zip(self._places(style, tokens), tokens, strict=True)]

    def _list(self, item: Item) -> dict[tuple, set[int]]:
        known: dict[tuple, set[int]] = defaultdict(set)
        rng = random.Random(item.do)
        for style, (_, write) in tiny_corpus.STYLES.items():
            answers = [write(item, rng) + self.end_token for _ in range(ANSWERS_PER_STYLE)]
            for tokens in self.tokenizer(answers)["input_ids"]:
                for place, token in zip(self._places(style, tokens), tokens, strict=True):
                    known[place].add(token)
        return known

    def _places(self, style: str, tokens: list[int]) -> list[tuple]:
        """(style once the first sentence has shown it, tokens since the sentence began) before each token."""
        places, sentence, shown = [], (), ""
        for token in tokens:
            places.append((shown, sentence))
            sentence += (token,)
            if self._ends_sentence(sentence):
                sentence, shown = (), style
        return places

    def _ends_sentence(self, sentence: tuple[int, ...]) -> bool:
        if self.tokenizer.convert_ids_to_tokens(sentence[-1]) not in (".", "!", "?"):
            return False
        return not self.tokenizer.decode(list(sentence[:-1])).strip().isdigit()  # "2." numbers a step
