"""``nashloop bench trust``: simulated annotators of whom everything is known."""

from typing import Annotated

import typer

from annotate_app.commands.options import JsonOption, note, report, table

DESIGNS = ((40, 3, 0.05), (40, 3, 0.25), (40, 3, 0.5), (40, 5, 0.5), (40, 5, 0.75), (120, 3, 0.05))


def trust(
    runs: Annotated[int, typer.Option("--runs", min=1, help="Simulated campaigns of each design.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Count those found who click at random or the wrong way round, the honest who are suspected, and intervals that hold.

    A design says how many labels each person makes, how many people share a pair, and which share of the labels are checks, pairs
    whose answer is known.
    """
    from annotate_app.bench_trust import Design, coverage, detection

    found = []
    for labels, overlap, checks in DESIGNS:
        note(f"{runs} campaigns of {labels} labels each, {overlap} people a pair, {checks:.0%} checks")
        found.append(detection(Design(labels=labels, overlap=overlap, checks=checks), runs=runs, seed=seed))
    note("intervals")
    held = coverage(runs=max(1, runs // 5), seed=seed)
    shares = ("all_found", "random_found", "adversarial_found", "honest_suspected")
    rows = [(r["labels"], r["overlap"], f"{r['checks']:.0%}", *(f"{r[name]:.1%}" for name in shares)) for r in found]
    head = ("labels each", "people a pair", "checks", "runs with all found", "random", "adversarial", "honest suspected")
    text = table(head, rows, empty="") + "\n\n"
    text += table(("95 % interval of", "holds the truth"), [(name, f"{share:.1%}") for name, share in held.items()], empty="")
    report({"detection": found, "coverage": held, "seed": seed}, text, as_json=as_json)
