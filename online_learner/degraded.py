"""Variants of a response with its key phrases removed: how much is missing is a degree of preference nobody has to judge.

Self-supervised preference degree (arXiv:2409.17791 v1, abstract read): key content is found by RAKE and removed in steps. Its
number of steps and shares are not published; here three degrees, nothing, half and all of the key phrases removed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from online_learner.jobs import Job
from online_learner.logps import TokenisedResponse
from online_learner.policy.base_model import tokenise_prompt, tokenise_response

NUM_DEGREES = 3
STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be because been before but by can could did do does for from had
    has have he her his how i if in into is it its just let may me more most my no not of off on one only or
    other our out over own she should so some such than that the their them then there these they this to too
    under up us very was we were what when which while who why will with would you your
    """.split()  # noqa: SIM905 (as words, readable)
)


def key_phrases(text: str) -> list[tuple[int, int]]:
    """Spans of the phrases between stop words and punctuation, the most telling first.

    A word's score is the number of words it appears beside, itself included, over how often it appears; a phrase's is the sum of
    its words' (Rose et al. 2010, RAKE). Equal scores keep the order of the text.
    """
    phrases: list[list[re.Match[str]]] = [[]]
    for token in re.finditer(r"\w+|[^\w\s]", text):
        if re.match(r"\w", token.group()) and token.group().lower() not in STOP_WORDS:
            phrases[-1].append(token)
        elif phrases[-1]:
            phrases.append([])
    phrases = [phrase for phrase in phrases if phrase]
    degree, count = defaultdict(int), defaultdict(int)
    for phrase in phrases:
        for word in phrase:
            degree[word.group().lower()] += len(phrase)
            count[word.group().lower()] += 1

    def score(phrase: list[re.Match[str]]) -> float:
        return sum(degree[word.group().lower()] / count[word.group().lower()] for word in phrase)

    ordered = sorted(phrases, key=score, reverse=True)
    return [(phrase[0].start(), phrase[-1].end()) for phrase in ordered]


def variants(text: str) -> list[str]:
    """The text with none, half and all of its key phrases removed; an empty list where these are not three different texts."""
    spans = key_phrases(text)
    texts = [_without(text, spans[: round(len(spans) * degree / (NUM_DEGREES - 1))]) for degree in range(NUM_DEGREES)]
    return texts if len(set(texts)) == NUM_DEGREES and all(texts) else []


def variant_id(response_id: str, degree: int) -> str:
    """Name of a response's variant."""
    return f"{response_id}-degree{degree}"


def degraded_sequences(job: Job, response_ids: Iterable[str]) -> dict[str, TokenisedResponse]:
    """Variant id -> tokens, for each of these responses that has variants."""
    found = {}
    for response in dict.fromkeys(response_ids):
        row = job.responses[response]
        ids = tokenise_prompt(job.base, job.prompts[row["prompt_id"]]["messages"], row["prompt_id"])
        for degree, text in enumerate(variants(row["text"])):
            found[variant_id(response, degree)] = tokenise_response(job.base, ids, text)
    return found


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return " ".join(text.split())
