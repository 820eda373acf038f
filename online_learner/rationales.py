"""Annotators' reasons as text to learn: why this response is preferred to that one (arXiv:2407.14477).

The model reads the prompt and both responses and continues with the reason. Who wrote which response is not told.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from online_learner.jobs import Job
from online_learner.logps import TokenisedResponse
from online_learner.policy.base_model import tokenise_response
from online_learner.prompts import prompt_token_ids

QUESTION = "{prompt}\n\nPreferred answer: {chosen}\n\nOther answer: {rejected}\n\nWhy is the first answer preferred?"
SHORTEST_REASON = 8  # tokens of the context that must be left for it


def has_reason(row: Mapping[str, Any]) -> bool:
    """Whether a judgment prefers one response and says why."""
    return row["verdict"] in ("a", "b") and bool((row.get("rationale") or "").strip())


def rationale_sequences(job: Job, judgments: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, TokenisedResponse]]:
    """(first, second) response id in sorted order -> id and tokens of each reason given for a verdict on that pair.

    A pair whose texts leave no room for a reason in the model's context is left out.
    """
    found: dict[tuple[str, ...], dict[str, TokenisedResponse]] = defaultdict(dict)
    for row in filter(has_reason, judgments):
        sides = [row["response_a_id"], row["response_b_id"]]
        chosen, rejected = (job.responses[side]["text"] for side in (sides if row["verdict"] == "a" else sides[::-1]))
        *before, last = job.prompts[row["prompt_id"]]["messages"]
        asked = QUESTION.format(prompt=last["content"], chosen=chosen, rejected=rejected)
        ids = tuple(prompt_token_ids(job.base.tokenizer, [*before, {"role": last["role"], "content": asked}]))
        if len(ids) + SHORTEST_REASON <= job.base.context:
            name = f"{row['judgment_id']}-reason"
            found[tuple(sorted(sides))][name] = tokenise_response(job.base, ids, row["rationale"].strip())
    return dict(found)
