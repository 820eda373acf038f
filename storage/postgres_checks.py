"""Do the places that PostgreSQL keeps agree with the records they follow from? And making them anew where they do not."""

from storage.checks import Check
from storage.postgres_connection import Server, Transaction
from storage.postgres_places import rebuild

_TABLES = ("queue", "slots", "answered")


def check_places(server: Server) -> Check:
    """Tells them from the records in tables of this connection alone and compares; labelling goes on meanwhile."""
    wrong = {table: count for table, count in server.run(_differences).items() if count}
    if not wrong:
        return Check(name="queue", ok=True, detail="places, leases and answers are as the records tell")
    told = ", ".join(f"{table} ({count})" for table, count in wrong.items())
    return Check(name="queue", ok=False, detail=f"rows that are not what the records tell: {told}. nashloop doctor --repair")


def mend_places(server: Server) -> None:
    """Make them from the records; labelling waits until it is done."""

    def operation(transaction: Transaction) -> None:
        transaction.execute("LOCK TABLE queue IN ACCESS EXCLUSIVE MODE")
        rebuild(transaction)

    server.run(operation)


def _differences(transaction: Transaction) -> dict[str, int]:
    transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    for table in _TABLES:  # of this name, a temporary table is found first
        transaction.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING INDEXES) ON COMMIT DROP")
    rebuild(transaction)
    return {table: transaction.rows(_DIFFER.format(table=table))[0]["n"] for table in _TABLES}


_DIFFER = """
    SELECT greatest((SELECT count(*) FROM (SELECT * FROM pg_temp.{table} EXCEPT SELECT * FROM public.{table}) a),
                    (SELECT count(*) FROM (SELECT * FROM public.{table} EXCEPT SELECT * FROM pg_temp.{table}) b)) AS n
"""
