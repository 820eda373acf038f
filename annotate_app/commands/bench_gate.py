"""``nashloop bench gate``: how often the promotion gate errs, by simulation."""

from typing import Annotated

import typer

from annotate_app.commands.options import JsonOption, report


def gate(
    comparisons: Annotated[int, typer.Option("--comparisons", min=10, help="Simulated comparisons of each kind.")] = 2000,
    votes: Annotated[int, typer.Option("--votes", min=25, max=2000, help="Most votes of a comparison.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """False promotions and power of the gate, which looks after every vote, beside a test of a fixed sample.

    Rows of win rate .50 show errors: promoted should be at most .05. The others show power.
    """
    from annotate_app.bench_gate import as_table, measure_gate

    rows = measure_gate(comparisons=comparisons, votes=votes, seed=seed)
    report({"comparisons": comparisons, "votes": votes, "seed": seed, "results": rows}, as_table(rows), as_json=as_json)
