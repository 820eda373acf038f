"""Worlds whose true preferences are known: what simulated annotators like, as functions of the text alone. Pure; no torch.

A world says P(x preferred to y), ties counted one half. Because it reads text and nothing else it works with any model, and
because it is known the true win rate of a policy is a matter of sampling. Three worlds: ``transitive`` (Bradley-Terry),
``cyclic`` (three classes, each beats the next), ``crowd`` (two sub-populations; annotators are noisy and favour a side).
The one place to add a world: a function that builds it, and a row in WORLDS.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

TIE_HALF_WIDTH = 0.15  # an annotator calls a tie where the latent answer lies this near zero, in logits
STRENGTH_EDGES = (1.0, 2.5)  # latent answers beyond them are "clearly" (2) and "much" (3) better
SHORT_WORDS = 12  # a response up to this long is short ...
LONG_WORDS, BRISK_SENTENCE_WORDS = 40, 7.0  # ... and so is a long one in brisk sentences: free text often fills the length limit

HEDGE = re.compile(r"\b(depends|might|maybe|perhaps|possibly|probably|not sure|hard to say|some people|it varies)\b", re.I)
LIST_ITEM = re.compile(r"(?:^|\s)\d{1,2}[.)]\s")
QUOTED = re.compile(r"[\"“”]")
SENTENCE_END = re.compile(r"[.!?]+[\"”']?(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Features:
    """What the worlds see of a response; every entry is 0 for an empty text."""

    num_words: int
    sentence_words: float  # mean words per sentence
    is_list: bool  # at least two numbered items
    num_hedges: int
    num_quotes: int  # quoted passages, an open one counts
    num_exclamations: int


@lru_cache(maxsize=65_536)  # every sample meets every other one
def read_features(text: str) -> Features:
    """Features of one response; the numbers of a list are neither words nor ends of sentences."""
    items = LIST_ITEM.findall(text)
    plain = LIST_ITEM.sub(" ", text)
    num_words = len(plain.split())
    num_sentences = sum(1 for part in SENTENCE_END.split(plain) if part.strip())
    return Features(
        num_words=num_words,
        sentence_words=num_words / max(num_sentences, 1),
        is_list=len(items) >= 2,
        num_hedges=len(HEDGE.findall(plain)),
        num_quotes=(len(QUOTED.findall(plain)) + 1) // 2,
        num_exclamations=plain.count("!"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """Weights of a Bradley-Terry utility over text features."""

    per_word: float = -0.02
    listed: float = 2.2
    hedging: float = -1.2  # each hedge, at most two
    speech: float = 1.5  # each quoted passage, at most two
    long_sentence: float = -0.3  # each word of the mean sentence beyond six, at most twelve
    cheer: float = 0.0  # each exclamation mark, at most two


def utility(text: str, taste: Taste) -> float:
    """Utility in logits; differences of it are log odds of preference."""
    f = read_features(text)
    return (
        taste.per_word * min(f.num_words, 200)
        + taste.listed * f.is_list
        + taste.hedging * min(f.num_hedges, 2)
        + taste.speech * min(f.num_quotes, 2)
        + taste.long_sentence * min(max(f.sentence_words - 6.0, 0.0), 12.0)
        + taste.cheer * min(f.num_exclamations, 2)
    )


CLASSES = ("short", "steps", "chatty")  # each beats the next, the last beats the first
CYCLE_LOGIT = math.log(4.0)  # 80:20


def response_class(text: str) -> int:
    """Index in CLASSES. steps: a numbered list or two quoted passages; short: few words, or long in
    brisk sentences; chatty: the rest."""
    f = read_features(text)
    if f.is_list or f.num_quotes >= 2:
        return 1
    brisk = f.num_words >= LONG_WORDS and f.sentence_words <= BRISK_SENTENCE_WORDS
    return 0 if f.num_words <= SHORT_WORDS or brisk else 2


def cycle_logit(x: str, y: str) -> float:
    """log 4 where the class of x beats that of y, minus log 4 where it loses, 0 within a class."""
    step = (response_class(y) - response_class(x)) % 3
    return (0.0, CYCLE_LOGIT, -CYCLE_LOGIT)[step]


Logit = Callable[[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """How one simulated annotator answers."""

    taste: int = 0  # which sub-population of the world
    scale: float = 1.0  # below 1 noisier, above 1 surer than the population
    flip_rate: float = 0.0  # share of answers given the wrong way round
    first_bias: float = 0.0  # logits in favour of the response shown first
    skip_rate: float = 0.01
    both_bad_rate: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Sub-populations with shares that sum to one, and how their annotators differ from each other."""

    name: str
    logits: tuple[Logit, ...]
    shares: tuple[float, ...] = (1.0,)
    noisy: bool = False
    num_classes: int = 0  # > 0: preferences depend on response_class only, so that the duality gap is exact

    def win_probability(self, x: str, y: str) -> float:
        """P(x preferred to y) for a person drawn from the population, ties one half; complements under swapping."""
        return sum(share / (1.0 + math.exp(-logit(x, y))) for share, logit in zip(self.shares, self.logits, strict=True))

    def people(self, num: int, seed: int) -> list[Person]:
        """``num`` annotators; sub-populations are filled in their shares, the rest is drawn from ``seed``."""
        rng = random.Random(f"people {self.name} {seed}")
        return [self._person(k / max(num, 1), rng) for k in range(num)]

    def _person(self, quantile: float, rng: random.Random) -> Person:
        if not self.noisy:
            return Person()
        taste = sum(quantile >= sum(self.shares[: k + 1]) - 1e-9 for k in range(len(self.shares) - 1))
        return Person(
            taste=taste,
            scale=math.exp(rng.gauss(0.0, 0.3)),
            flip_rate=rng.betavariate(1.0, 15.0),
            first_bias=rng.gauss(0.25, 0.15),
            skip_rate=0.02,
            both_bad_rate=0.03,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a simulated annotator says about a shown pair."""

    verdict: str
    strength: int | None = None  # 1 slightly, 2 clearly, 3 much; only where a side was chosen


def latent_shift(logit: float, half_width: float = TIE_HALF_WIDTH) -> float:
    """Location of a logistic latent answer for which ties within ``half_width`` of zero, counted one half, give ``logit``.

    With k = 2 P - 1 and C = cosh(half_width), sinh(m) = k (cosh(m) + C), a quadratic in exp(m).
    """
    k, c = math.tanh(logit / 2.0), math.cosh(half_width)
    if abs(k) > 1 - 1e-12:  # exp(m) overflows the quadratic; ties no longer occur
        return logit
    k_abs = abs(k)
    root = (k_abs * c + math.sqrt(k_abs * k_abs * c * c + 1.0 - k_abs * k_abs)) / (1.0 - k_abs)
    return math.copysign(math.log(root), k)


def answer_pair(world: World, person: Person, shown_a: str, shown_b: str, rng: random.Random) -> Answer:
    """One annotator's answer to the pair as shown; a plain person's verdicts agree with ``world.win_probability``."""
    chance = rng.random()
    if chance < person.skip_rate:
        return Answer("skip")
    if chance < person.skip_rate + person.both_bad_rate:
        return Answer("both_bad")
    logit = person.scale * world.logits[person.taste](shown_a, shown_b)
    if rng.random() < person.flip_rate:
        logit = -logit
    uniform = min(max(rng.random(), 1e-12), 1.0 - 1e-12)
    latent = latent_shift(logit) + person.first_bias + math.log(uniform / (1.0 - uniform))
    if abs(latent) < TIE_HALF_WIDTH:
        return Answer("tie")
    strength = 1 + sum(abs(latent) > edge for edge in STRENGTH_EDGES)
    return Answer("a" if latent > 0 else "b", strength)


def _taste_logit(taste: Taste) -> Logit:
    return lambda x, y: utility(x, taste) - utility(y, taste)


MAJORITY = Taste()
MINORITY = replace(MAJORITY, per_word=0.01, listed=0.6, cheer=0.8, long_sentence=-0.1)  # likes detail and warmth


def transitive() -> World:
    """Everybody shares one Bradley-Terry utility."""
    return World(name="transitive", logits=(_taste_logit(MAJORITY),))


def cyclic() -> World:
    """Short beats steps beats chatty beats short, 80:20 each; within a class it is a coin flip."""
    return World(name="cyclic", logits=(cycle_logit,), num_classes=len(CLASSES))


def crowd() -> World:
    """Two thirds like what ``transitive`` likes, one third likes detail and warmth; all are noisy and favour the first side."""
    logits = (_taste_logit(MAJORITY), _taste_logit(MINORITY))
    return World(name="crowd", logits=logits, shares=(2 / 3, 1 / 3), noisy=True)


WORLDS: dict[str, Callable[[], World]] = {"transitive": transitive, "cyclic": cyclic, "crowd": crowd}


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """A true win rate with its 95 % interval, clustered by prompt."""

    mean: float
    low: float
    high: float


def true_win_rate(world: World, ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> WinRate:
    """Win rate of ``ours`` over ``theirs``, lists of responses by prompt: all cross pairs of a prompt, prompts weigh the same.

    The interval treats prompts as the sample: mean +- 1.96 standard errors of the per-prompt means.
    """
    by_prompt = [
        sum(world.win_probability(x, y) for x in mine for y in other) / (len(mine) * len(other))
        for mine, other in zip(ours, theirs, strict=True)
    ]
    mean = sum(by_prompt) / len(by_prompt)
    variance = sum((rate - mean) ** 2 for rate in by_prompt) / max(len(by_prompt) - 1, 1)
    half = 1.96 * math.sqrt(variance / len(by_prompt))
    return WinRate(mean=mean, low=max(mean - half, 0.0), high=min(mean + half, 1.0))


def class_shares(responses: Sequence[Sequence[str]]) -> list[float]:
    """Share of each class of CLASSES among all responses."""
    classes = [response_class(text) for of_prompt in responses for text in of_prompt]
    return [classes.count(k) / len(classes) for k in range(len(CLASSES))]


def class_gap(shares: Sequence[float]) -> float:
    """Exact duality gap in [0, 1] of a mix of classes in the cyclic world: best class against the mix, twice, minus one."""
    win = 1.0 / (1.0 + math.exp(-CYCLE_LOGIT))
    against = [0.5 * shares[k] + win * shares[(k + 1) % 3] + (1.0 - win) * shares[(k + 2) % 3] for k in range(3)]
    return 2.0 * max(against) - 1.0


def true_duality_gap(world: World, ours: Sequence[Sequence[str]], searched: Sequence[Sequence[str]]) -> float:
    """Duality gap of a policy, in [0, 1], from samples ``ours`` by prompt.

    Worlds of classes: exact over the classes, for the policy's mix over all prompts. Otherwise restricted: the best of the
    responses ``searched`` of each prompt, averaged over prompts; a lower bound over all texts.
    """
    if world.num_classes:
        return class_gap(class_shares(ours))
    gaps = []
    for mine, candidates in zip(ours, searched, strict=True):
        best = max(sum(world.win_probability(y, x) for x in mine) / len(mine) for y in candidates)
        gaps.append(2.0 * best - 1.0)
    return max(sum(gaps) / len(gaps), 0.0)


def gap_name(world: World) -> str:
    """What ``true_duality_gap`` searched, for captions."""
    return "exact over classes" if world.num_classes else "restricted to the sampled responses of base and policy"
