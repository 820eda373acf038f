"""The training round: pairs whose answer is known, given before real work until enough of them are right. Pure.

Answers come in rounds of ``num_training``; a round with the pass mark's share right passes for good, another one begins
otherwise. Kept are the verdicts, not whether they were right: correcting a known answer corrects everybody's count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.records import Feedback, Judgment, TrainingStatus, Verdict

_SWAPPED: dict[Verdict, Verdict] = {"a": "b", "b": "a"}


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """``verdict`` a is for response 1 of the task."""

    verdict: Verdict
    explanation: str | None = None


@dataclass(slots=True)
class TrainingBook:
    """What is known of training pairs, and what annotators said of them; only the writer thread changes it."""

    answers: dict[str, KnownAnswer] = field(default_factory=dict)  # by task
    given: dict[str, list[tuple[str, Verdict]]] = field(default_factory=dict)  # annotator -> (task, verdict on response 1)

    def outcomes(self, annotator_id: str) -> list[bool]:
        """Right or not, in the order answered; pairs whose answer is not known any more are left out."""
        given = self.given.get(annotator_id, ())
        return [self.answers[task_id].verdict == verdict for task_id, verdict in given if task_id in self.answers]

    def feedback(self, judgment: Judgment, response_1_id: str) -> Feedback | None:
        """What to tell about a judgment; None for a skip and where no answer is known."""
        answer = self.answers.get(judgment.task_id)
        if answer is None or judgment.verdict == "skip":
            return None
        expected = oriented(answer.verdict, judgment.response_a_id, response_1_id)
        return Feedback(right=judgment.verdict == expected, expected=expected, explanation=answer.explanation)


def oriented(verdict: Verdict, response_a_id: str, response_1_id: str) -> Verdict:
    """A verdict on the sides shown as one on responses 1 and 2, or the other way round."""
    return verdict if response_a_id == response_1_id else _SWAPPED.get(verdict, verdict)


def training_status(outcomes: Sequence[bool], num_training: int, pass_mark: float) -> TrainingStatus:
    """How far somebody is: the first round that passed, else the one under way, else the last (failed) one."""
    last: Sequence[bool] = ()
    for start in range(0, len(outcomes), num_training):
        last = outcomes[start : start + num_training]
        if len(last) == num_training and sum(last) / num_training >= pass_mark:
            return TrainingStatus(done=num_training, total=num_training, right=sum(last), passed=True)
    failed = len(last) == num_training
    return TrainingStatus(done=len(last), total=num_training, right=sum(last), passed=False if failed else None)
