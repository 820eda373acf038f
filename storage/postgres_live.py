"""Live pairs in PostgreSQL: an annotator wrote the prompt, the policy answered at once, and only its author judges it."""

from collections.abc import Sequence

from storage.errors import UserError
from storage.postgres_connection import Transaction
from storage.postgres_content import add_records
from storage.postgres_labelling import make_lease
from storage.postgres_places import Given, issue, lease_of, lock_tasks, read_tasks
from storage.postgres_state import PostgresState, leased_pairs
from storage.records import LeasedPair, Prompt, Response, Task


def add_live_pair(
    state: PostgresState, prompt: Prompt, responses: Sequence[Response], task: Task, *, annotator_id: str
) -> LeasedPair | None:
    """All of it and the author's lease in one transaction; the same lease again for a retry, None once it is answered."""

    def operation(transaction: Transaction) -> list[Given]:
        if transaction.one("SELECT 1 AS yes FROM annotators WHERE id = $id", {"id": annotator_id}) is None:
            raise UserError(f"annotator {annotator_id!r} is not known. Add the annotator first.")
        add_records(transaction, [[prompt], responses, [task]])
        lock_tasks(transaction, [task.id])
        now = state.clock()
        places = read_tasks(transaction, [task.id], annotator_id)[task.id]
        if places.num_made:
            return []
        lease_id = places.places[0].lease_id if places.places else None
        if lease_id is not None:
            row = transaction.one("SELECT * FROM leases WHERE id = $id", {"id": lease_id}) or {}
            return [(lease_of(row), places)]
        shown = (task.response_1_id, task.response_2_id)  # two samples of one policy: their order is as good as drawn
        lease = make_lease(state, places, 0, annotator_id, now, shown=shown)
        issue(transaction, [lease])
        return [(lease, places)]

    return next(iter(leased_pairs(state, state.server.run(operation))), None)
