"""``nashloop bench label``: lease and submit over HTTP by many clients at once."""

import json
from typing import Annotated

import typer

from annotate_app.commands.options import JsonOption
from storage.errors import UserError


def label(
    clients: Annotated[int, typer.Option("--clients", min=1, max=2000, help="Clients that label at once.")] = 50,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Judgments in all.")] = 2000,
    response_bytes: Annotated[int, typer.Option("--response-bytes", min=100, help="Size of each response.")] = 2500,
    database: Annotated[str | None, typer.Option("--database", help="An empty PostgreSQL database; it is filled.")] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=32, help="Apps that serve it.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Latency and rate of labelling: the real app on a temporary database, clients in a process of their own."""
    if replicas > 1 and database is None:
        raise UserError(f"--replicas {replicas} needs --database postgresql://...: a DuckDB file belongs to one app.")
    from annotate_app.bench_label import measure

    result = measure(clients=clients, labels=labels, response_bytes=response_bytes, database=database, replicas=replicas)
    if as_json:
        print(json.dumps(result))
        return
    rate, latency = result["labels_per_second"], result["lease_and_submit_ms"]
    print(f"{result['labels']} judgments by {clients} clients in {result['seconds']:.1f} s: {rate:.0f} a second")
    print("lease and submit: " + ", ".join(f"{name} {value:.0f} ms" for name, value in latency.items()))
