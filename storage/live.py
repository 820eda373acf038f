"""Live pairs: an annotator wrote the prompt, the policy answered at once, and only its author judges it."""

from collections.abc import Sequence
from datetime import timedelta

from storage.content import add_in
from storage.errors import UserError
from storage.ids import new_id
from storage.labelling import issue, leased_pair
from storage.leases import Lease
from storage.records import LeasedPair, Prompt, Response, Task
from storage.state import State
from storage.writer import Transaction


def add_live_pair(
    state: State, prompt: Prompt, responses: Sequence[Response], task: Task, *, annotator_id: str
) -> LeasedPair | None:
    """All of it and the author's lease in one transaction; the same lease again for a retry, None once it is answered.

    Both responses are samples of one policy, so their order is as good as drawn: response 1 is a.
    """

    def operation(transaction: Transaction) -> Lease | None:
        if annotator_id not in state.accounts.annotators:
            raise UserError(f"annotator {annotator_id!r} is not known. Add the annotator first.")
        for records in ([prompt], responses, [task]):
            if records:  # no responses: they are known already
                add_in(state, transaction, list(records))
        book = state.book.tasks[task.id]
        if book.num_made:
            return None
        held = state.book.leases.get(book.slots[0] or "") if book.slots else None
        if held is not None:
            return held
        now = state.clock()
        lease = Lease(
            id=new_id(),
            task_id=task.id,
            annotator_id=annotator_id,
            slot=0,
            response_a_id=task.response_1_id,
            response_b_id=task.response_2_id,
            issued_at=now,
            expires_at=now + timedelta(seconds=state.lease_seconds),
        )
        issue(state, transaction, lease)
        return lease

    lease = state.writer.run(operation)
    return None if lease is None else leased_pair(state, lease)
