"""The PostgreSQL server: a pool of connections, and transactions that try again."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, LiteralString, TypeVar, cast

import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.string import StrDumper
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from storage.contract.schemas import MESSAGE
from storage.errors import Unavailable, UserError
from storage.tables import SCHEMAS

T = TypeVar("T")
MAX_CONNECTIONS = 12
APPLICATION = "nashloop"  # by which an app is known to the server
PATIENCE_S = 6.0  # with a server that is starting, a lost connection, a deadlock
_MESSAGES = pa.list_(MESSAGE)


class Server:
    """One database on a PostgreSQL server, for all threads of this process."""

    def __init__(self, url: str, *, max_connections: int = MAX_CONNECTIONS, application: str = APPLICATION) -> None:
        self.name = public_name(url)
        options = {"options": "-c TimeZone=UTC", "application_name": application, "row_factory": dict_row, "autocommit": True}
        size = {"min_size": 1, "max_size": max_connections, "timeout": PATIENCE_S, "reconnect_timeout": PATIENCE_S}
        self.pool = ConnectionPool(url, kwargs=options, configure=_configure, open=False, name="nashloop", **size)
        try:
            psycopg.connect(url, connect_timeout=int(PATIENCE_S), **options).close()  # says why it cannot; the pool would not
            self.pool.open(wait=True, timeout=PATIENCE_S)
        except (psycopg.Error, PoolTimeout) as error:
            self.pool.close()
            raise UserError(f"{self.name} cannot be used: {first_line(error)}. Check --database and the server.") from error

    def run(self, operation: "Callable[[Transaction], T]", *, snapshot: bool = False, pipelined: bool = False) -> T:
        """The operation's value after COMMIT. It may be run again (deadlock, lost connection); nothing of a failed run stays.

        ``snapshot``: it only reads, and all its statements see the same moment. ``pipelined``: statements whose result is not
        asked for travel together with the next one; for small operations, COPY does not go with it.
        """

        def work(connection: psycopg.Connection[Any]) -> T:
            with connection.pipeline() if pipelined else nullcontext(), connection.transaction():
                if snapshot:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return operation(Transaction(connection))

        return self._try(work)

    def rows(self, sql: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """What one query finds, at half the cost of a transaction."""
        return self._try(lambda connection: Transaction(connection).rows(sql, params))

    def _try(self, work: Callable[[psycopg.Connection[Any]], T], patience_s: float = PATIENCE_S) -> T:
        until, pause_s = time.monotonic() + patience_s, 0.02
        while True:
            try:
                with self.pool.connection(timeout=max(0.1, until - time.monotonic())) as connection:
                    return work(connection)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if time.monotonic() > until:
                    raise
            except (psycopg.errors.DiskFull, psycopg.DataError) as error:
                raise _readable(error) from error
            except (psycopg.OperationalError, PoolTimeout) as error:
                if time.monotonic() > until or isinstance(error, PoolClosed):
                    raise self._unreachable(error) from error
                with suppress(psycopg.Error, PoolTimeout):
                    self.pool.check()  # the server restarted or the network broke: drop dead connections
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def alive(self) -> bool:
        """Whether the server answers."""
        with suppress(UserError, psycopg.Error):
            return bool(self._try(lambda connection: Transaction(connection).rows("SELECT 1 AS yes"), patience_s=1.0))
        return False

    def waiting(self) -> int:
        """Operations that wait for a connection."""
        return int(self.pool.get_stats().get("requests_waiting", 0))

    def close(self) -> None:
        self.pool.close()

    def _unreachable(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"{self.name} cannot be reached ({first_line(error)}). Everything acknowledged is kept there; try again in a moment."
        )


class Transaction:
    """Statements of one transaction; parameters are written ``$name``, as in DuckDB."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def rows(self, sql: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return self.connection.execute(to_postgres(sql), params).fetchall()

    def one(self, sql: str, params: dict[str, Any] | None = None) -> dict[str, Any] | None:
        return self.connection.execute(to_postgres(sql), params).fetchone()

    def execute(self, sql: str, params: dict[str, Any] | None = None) -> None:
        self.connection.execute(to_postgres(sql), params)

    def hold(self, tables: Iterable[str]) -> None:
        """Append to these tables alone until COMMIT: what is looked up before appending stays true."""
        self.rows("SELECT last FROM counters WHERE name = ANY($names) ORDER BY name FOR UPDATE", {"names": list(tables)})

    def take(self, table: str, count: int = 1) -> range:
        """The next ``seq`` numbers of a table, which nobody else gets before this transaction has ended."""
        took = self.one("UPDATE counters SET last = last + $n WHERE name = $name RETURNING last", {"n": count, "name": table})
        if took is None:
            raise KeyError(table)
        return range(took["last"] - count + 1, took["last"] + 1)

    def append(self, table: str, row: Sequence[Any]) -> Callable[[], int]:
        """Append one row under the next ``seq``, whatever the row says of it; what is returned tells that number.

        Let it be the last statement: others who append to this table wait for COMMIT from here on.
        """
        names = SCHEMAS[table].names if "seq" in SCHEMAS[table].names else [*SCHEMAS[table].names, "seq"]
        columns = ", ".join(f'"{name}"' for name in names)
        values = ", ".join("n.last" if name == "seq" else "%s" for name in names)
        given = [value for name, value in zip(SCHEMAS[table].names, row, strict=True) if name != "seq"]
        took = f"WITH n AS (UPDATE counters SET last = last + 1 WHERE name = '{table}' RETURNING last)"
        sql = f"{took} INSERT INTO {table} ({columns}) SELECT {values} FROM n RETURNING seq"
        cursor = self.connection.execute(_own(sql), given)
        return lambda: cursor.fetchall()[0]["seq"]

    def insert(self, table: str, rows: Sequence[Sequence[Any]], *, names: Sequence[str] | None = None) -> None:
        """Append rows, by default in the column order of ``tables.SCHEMAS``."""
        names = names or SCHEMAS[table].names
        columns = ", ".join(f'"{name}"' for name in names)
        encode = _json_columns(table, names)
        if len(rows) == 1:
            marks = ", ".join(["%s"] * len(names))
            self.connection.execute(_own(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), encode(rows[0]))
            return
        with self.connection.cursor().copy(_own(f"COPY {table} ({columns}) FROM STDIN")) as copy:
            for row in rows:
                copy.write_row(encode(row))


def to_postgres(sql: str) -> LiteralString:
    """``$name`` as psycopg writes it."""
    return _own(re.sub(r"\$(\w+)", r"%(\1)s", sql.replace("%", "%%")))


def _own(sql: str) -> LiteralString:
    """psycopg wants literal strings; ours are put together from names of our own tables and columns, never from input."""
    return cast(LiteralString, sql)


def public_name(url: str) -> str:
    """Server and database without password: for people, logs and /healthz."""
    try:
        told = conninfo_to_dict(url)
    except psycopg.Error as error:
        why = first_line(error)
        raise UserError(f"--database is no PostgreSQL address ({why}). Use postgresql://USER@HOST/NAME.") from error
    host, port = told.get("host") or "localhost", told.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{told.get('dbname') or told.get('user') or ''}"


def _configure(connection: psycopg.Connection[Any]) -> None:
    connection.adapters.register_dumper(str, StrDumper)  # text, so that a list of them is text[] and not of unknown type


def _json_columns(table: str, names: Sequence[str]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """The function that wraps the columns kept as jsonb."""
    places = [i for i, name in enumerate(names) if name in SCHEMAS[table].names and SCHEMAS[table].field(name).type == _MESSAGES]
    if not places:
        return lambda row: row
    return lambda row: [Jsonb(value) if i in places else value for i, value in enumerate(row)]


def _readable(error: psycopg.Error) -> UserError:
    why = first_line(error)
    if isinstance(error, psycopg.errors.DiskFull):
        return Unavailable(f"the database server's disk is full, nothing of this was stored ({why}). Free some space.")
    return UserError(f"PostgreSQL cannot keep a value of this: {why}. Take it out (perhaps a NUL character).")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
