"""What annotators are shown of leases and judgments, as JSON. Which response is whose is never told."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from annotate_app.render import is_cut, render_markdown, render_prompt
from storage.rankings import LETTERS, letters_ranked
from storage.records import Judgment, LeasedPair, Message

# A policy could be recognised by its responses' ids; the ranking is told in letters.
_HIDDEN = ("response_a_id", "response_b_id", "more_response_ids", "ranking")


def lease_json(pair: LeasedPair) -> dict[str, Any]:
    """A leased pair, training pair or ranking; only a ranking lists all of its ``responses``, of which a and b are the first.

    Not sent twice for pairs: of long responses that would be felt in every verdict.
    """
    responses = responses_json((pair.response_a, pair.response_b, *pair.more_responses))
    return {
        "lease_id": pair.lease_id,
        "task_id": opaque(pair.task_id),
        "kind": "training" if pair.purpose == "gold" else "ranking" if pair.more_responses else "pair",
        **prompt_json(pair.prompt),
        "response_a": responses[0],
        "response_b": responses[1],
        **({"responses": responses} if pair.more_responses else {}),
        "expires_at": pair.expires_at.isoformat(),
        "supersedes": pair.supersedes,
    }


def prompt_json(prompt: Sequence[Message]) -> dict[str, Any]:
    return {"prompt": [asdict(message) for message in prompt], "prompt_html": render_prompt(prompt)}


def responses_json(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Responses in the order shown, with the letters they are named by; ``truncated``: the html shows only the beginning."""
    return [
        {"label": letter, "text": text, "html": render_markdown(text), "truncated": is_cut(text)}
        for letter, text in zip(LETTERS, texts, strict=False)
    ]


def judgment_json(judgment: Judgment) -> dict[str, Any]:
    """A judgment as its annotator sees it; a ranking in the letters shown."""
    ranking = None if judgment.ranking is None else letters_ranked(judgment.ranking, judgment.shown_ids)
    told = {name: value for name, value in asdict(judgment).items() if name not in _HIDDEN}
    return told | {"ranking": ranking, "task_id": opaque(judgment.task_id)}


def opaque(task_id: str) -> str:
    """A name for a task that is always the same and says nothing: the id itself tells when the pair was made, so which
    policies there were. One-way, as an id holds 74 random bits."""
    return hashlib.sha256(task_id.encode()).hexdigest()[:32]
