"""The fitted preference model of a job, asked by its stages about responses to one prompt, named by their ids.

H heads; k and l responses. Models on frozen features of single responses keep those features; models of text read the pairs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from online_learner.features import load_encoder
from online_learner.jobs import Job
from online_learner.pairs_file import Pair, Side
from online_learner.preference_models.fitted import FittedPreference, load_preference
from online_learner.preference_models.text_fit import READS, Encoder, TextPreference, load_text_preference
from online_learner.responses import Row, features_of

DIRECTORY = "preference_model"  # of the stage, and in the artifact


class Judge(Protocol):
    """What stages ask."""

    fitted: FittedPreference
    features: Mapping[str, Tensor]
    """By id, for a later stage; none where texts are read."""

    def between(self, ids: Sequence[str], others: Sequence[str]) -> Tensor:
        """(H, k, l): calibrated log odds of each head that the row's response is preferred to the column's."""
        ...


class FeatureJudge:
    """Frozen features of responses by id, (d,) each."""

    def __init__(self, fitted: FittedPreference, features: Mapping[str, Tensor]) -> None:
        self.fitted, self.features = fitted, features

    def between(self, ids: Sequence[str], others: Sequence[str]) -> Tensor:
        """See Judge."""
        names = list(dict.fromkeys([*ids, *others]))
        rows, columns = [names.index(name) for name in ids], [names.index(name) for name in others]
        every = self.fitted.ensemble_logits(torch.stack([self.features[name] for name in names])[None])[:, 0]
        return every[:, rows][:, :, columns]


class TextJudge:
    """Texts of pairs, read when they are first asked for. ``rows``: responses by id."""

    def __init__(self, job: Job, preference: TextPreference, rows: Mapping[str, Row]) -> None:
        self.fitted: FittedPreference = preference.fitted
        self.features: Mapping[str, Tensor] = {}
        self._job, self._preference, self._rows = job, preference, rows
        self._known: dict[tuple[str, str], Tensor] = {}

    def between(self, ids: Sequence[str], others: Sequence[str]) -> Tensor:
        """See Judge."""
        asked = dict.fromkeys((min(a, b), max(a, b)) for a in ids for b in others if a != b)
        unread = [pair for pair in asked if pair not in self._known]
        if unread:
            pairs = [text_pair(self._job, self._rows[a], self._rows[b]) for a, b in unread]
            heads = self.fitted.pair_heads(*self._preference.pair_features(pairs))
            self._known |= dict(zip(unread, heads.T, strict=True))
        none = torch.zeros(len(self.fitted.model.weights))
        return torch.stack([torch.stack([self._one(a, b, none) for b in others], -1) for a in ids], -2)

    def _one(self, a: str, b: str, none: Tensor) -> Tensor:
        return none if a == b else self._known[a, b] if a < b else -self._known[b, a]


def load_judge(
    job: Job,
    rows: Mapping[str, Row],
    known: Mapping[str, Tensor] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Judge:
    """The job's preference model, for responses ``rows`` and the job's own; ``known``: features that were extracted before."""
    directory = job.stage_dir("preference_model") / DIRECTORY
    if reads_text(directory):
        return TextJudge(job, load_text_preference(directory, job_encoder(job)), {**job.responses, **rows})
    known = known or {}
    unread = [row for name, row in rows.items() if name not in known]
    return FeatureJudge(load_preference(directory), {**known, **(features_of(job, unread, progress) if unread else {})})


def by_id(rows: Iterable[Row]) -> dict[str, Row]:
    """Responses by their id."""
    return {row["response_id"]: row for row in rows}


def reads_text(directory: Path) -> bool:
    """Whether the model saved there reads more than frozen features of single responses."""
    return (directory / READS).exists()


def job_encoder(job: Job) -> Encoder:
    """The model that reads texts: the one that the settings name, or the bare base model."""
    name = job.settings.preference.encoder
    body, tokenizer = load_encoder(name) if name else (job.base.model, job.base.tokenizer)
    return Encoder.of(body, tokenizer)


def text_pair(job: Job, a: Row, b: Row, *, verdict: str = "a", **said: object) -> Pair:
    """Two responses to one prompt as text, with what was said of them where they were judged."""
    prompt = job.prompts[a["prompt_id"]]
    turns = tuple((message["role"], message["content"]) for message in prompt["messages"])
    sides = (Side(turns=turns, response=row["text"]) for row in (a, b))
    facts: dict = {"strength": None, "annotator": None, "source": "job", "group": a["prompt_id"], **said}
    return Pair(**dict(zip("ab", sides, strict=True)), verdict=verdict, **facts)
