"""Whether the built-in policy still speaks whole, correct sentences: the alarm for broken language. No torch here.

Every answer the built-in corpus can give to a question is made of sentences from a finite set (``known_sentences.json`` beside
the weights). Preference training may change which of them are said, but a sentence outside the set is garbled or belongs to
another topic.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import UserError

SENTENCES_FILE = "known_sentences.json"
_LIST_NUMBER = re.compile(r"^\d+\.\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class KnownSentences:
    """What is known about each question: its topic, the topic's sentences, and how typical a word is of the topic."""

    topics: dict[str, int]
    """question -> topic number"""
    sentences: tuple[frozenset[str], ...]
    """topic number -> every sentence an answer may consist of"""
    word_weights: tuple[dict[str, float], ...]
    """topic number -> word -> log(topics / topics that use the word)"""

    def topic_of(self, question: str) -> int | None:
        """The topic of a question, None where the corpus does not know the question."""
        return self.topics.get(question.strip())


def load_known_sentences(model_dir: str | Path) -> KnownSentences | None:
    """The sentences shipped with a model directory, None where the model ships none; UserError where the file is damaged."""
    path = Path(model_dir) / SENTENCES_FILE
    if not path.is_file():
        return None
    try:
        return _build(json.loads(path.read_text()))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}). Restore it with `python scripts/tiny_corpus.py --write`.") from error


def split_sentences(text: str) -> list[str]:
    """The sentences of an answer, list numbers removed; empty for an empty answer."""
    lines = (_LIST_NUMBER.sub("", line.strip()) for line in text.splitlines())
    return [sentence for line in lines for sentence in _SENTENCE_END.split(line) if sentence]


def is_correct(known: KnownSentences, topic: int, response: str) -> bool:
    """True where the response has a sentence and knows every one it says."""
    sentences = split_sentences(response)
    return bool(sentences) and all(sentence in known.sentences[topic] for sentence in sentences)


def text_quality(known: KnownSentences, questions: Sequence[str], responses: Sequence[str]) -> float | None:
    """Share of responses whose every sentence is known for their question, in [0, 1].

    questions, responses: (N,), one question per response; unknown questions are left out. None where no question is known.
    """
    verdicts = [
        is_correct(known, topic, response)
        for question, response in zip(questions, responses, strict=True)
        if (topic := known.topic_of(question)) is not None
    ]
    return sum(verdicts) / len(verdicts) if verdicts else None


def on_topic(known: KnownSentences, questions: Sequence[str], responses: Sequence[str]) -> float | None:
    """Share of responses that are correct, or whose words point to no other topic more than to their own, in [0, 1].

    Arguments as above. A topic's score is the sum of log(topics / topics that use the word) over the distinct words it shares
    with the response; it recognises the topic of a garbled sentence too.
    """
    verdicts = [
        is_correct(known, topic, response) or _points_to(known, topic, response)
        for question, response in zip(questions, responses, strict=True)
        if (topic := known.topic_of(question)) is not None
    ]
    return sum(verdicts) / len(verdicts) if verdicts else None


def _points_to(known: KnownSentences, topic: int, response: str) -> bool:
    words = set(_WORD.findall(response.lower()))
    scores = [sum(weights.get(word, 0.0) for word in words) for weights in known.word_weights]
    return scores[topic] > 0 and scores[topic] >= max(scores) - 1e-9


def _build(data: dict) -> KnownSentences:
    sentences = tuple(_topic_sentences(data, item) for item in data["items"])
    own_words = [
        set(_WORD.findall(" ".join([item["doing"], *item["tips"], *item["sentences"]]).lower())) for item in data["items"]
    ]
    topics_using = Counter(word for words in own_words for word in words)
    weights = tuple({word: math.log(len(own_words) / topics_using[word]) for word in words} for words in own_words)
    topics = {question: number for number, item in enumerate(data["items"]) for question in item["questions"]}
    return KnownSentences(topics, sentences, weights)


def _topic_sentences(data: dict, item: dict) -> frozenset[str]:
    shared = [sentence.replace("{doing}", item["doing"]) for sentence in data["shared"]]
    prefixed = [prefix + tip[0].lower() + tip[1:] for prefix in data["tip_prefixes"] for tip in item["tips"]]
    whole = [*shared, *data["by_domain"][item["domain"]], *item["tips"], *prefixed, *item["sentences"]]
    return frozenset(sentence for entry in whole for sentence in split_sentences(entry))
