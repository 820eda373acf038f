"""``nashloop simulate``: the whole loop with annotators whose preferences are known."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from annotate_app.commands.options import JsonOption, ModelOption, note
from storage.errors import UserError


def simulate(
    rounds: Annotated[int, typer.Option("--rounds", min=0, help="Rounds to run.")] = 3,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Labels collected before each round.")] = 400,
    world: Annotated[str, typer.Option("--world", help="transitive, cyclic or crowd.")] = "transitive",
    model: ModelOption = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="File of prompts, for other models than the built-in one.")
    ] = None,
    annotators: Annotated[int, typer.Option("--annotators", min=1, help="Simulated annotators.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes everything that is drawn.")] = 0,
    update_rule: Annotated[str | None, typer.Option("--update-rule", help="See `nashloop rules`.")] = None,
    selection: Annotated[str, typer.Option("--selection", help="Which pairs are labelled: random, mix, bald ...")] = "random",
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG file for the curves.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Empty directory to keep everything in; temporary if not given.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A round setting, such as update.step_size=3.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run label, round, promote, label ... through the real app, with annotators whose true preferences are known.

    Prints after each round the true win rate against the base policy, the true duality gap, labels and seconds.
    """
    assignments = [*(settings or []), *([] if update_rule is None else [f"update.rule={update_rule}"])]
    plan = _check(world=world, plot=plot, prompts=prompts, data=data, assignments=assignments, model=model, selection=selection)
    from annotate_app import simulate as loop
    from annotate_app import simulate_report as shown
    from annotate_app.server import stop_cleanly_on_sigterm

    stop_cleanly_on_sigterm()
    plan = loop.Plan(rounds=rounds, labels=labels, annotators=annotators, seed=seed, **plan)
    started, rows = time.monotonic(), []
    with ExitStack() as stack:
        directory = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nashloop-simulate-")))
        for row in loop.simulate(plan, directory, say=note):
            rows.append(row)
            note(
                f"== round {row.round}: win rate {row.win_rate_vs_base:.3f}, gap {row.true_duality_gap:.3f}, {row.seconds:.0f} s"
            )
    if plot is not None:
        shown.save_plot(plan, rows, plot)
    result = shown.as_json(plan, rows, time.monotonic() - started)
    if as_json:
        import json

        print(json.dumps(result))
    else:
        from rich.console import Console

        console = Console()
        console.print(shown.as_table(plan, rows), width=max(console.width, 100))


def _check(
    *, world: str, plot: Path | None, prompts: Path | None, data: Path | None, assignments: list[str], **plan: Any
) -> dict[str, Any]:
    """Everything that can be refused before minutes are spent."""
    from annotate_app.commands.compose import check_model
    from annotate_app.commands.rounds import read_settings
    from annotate_app.commands.up import check_file
    from annotate_app.pair_selection import SELECTIONS
    from annotate_app.worlds import WORLDS

    if world not in WORLDS:
        raise UserError(f"--world {world!r} is unknown. Worlds: {', '.join(WORLDS)}.")
    if plan["selection"] not in SELECTIONS:
        raise UserError(f"--selection {plan['selection']!r} is unknown. Rules: {', '.join(SELECTIONS)}.")
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise UserError(f"--plot {plot} is refused: name a .png file in a folder that exists.")
    check_file(prompts)
    if data is not None and data.exists() and any(data.iterdir()):
        raise UserError(f"--data {data} is not empty. Name a new directory; a simulation starts from nothing.")
    settings = read_settings(None, assignments)
    if "seed" in settings:
        raise UserError(f"--set seed={settings['seed']} would be ignored: every round has a seed of its own. Use --seed.")
    check_model(plan["model"])
    plan["model"] = plan["model"] or "tiny"
    return {**plan, "world": world, "prompts": prompts, "settings": settings}
