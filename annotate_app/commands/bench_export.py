"""``nashloop bench export``: start, next pair, overview and joined export of a large campaign."""

import json
from pathlib import Path
from typing import Annotated

import typer

from annotate_app.commands.options import JsonOption, note


def export(
    judgments: Annotated[int, typer.Option("--judgments", min=2, help="Judgments of the campaign.")] = 1_000_000,
    responses: Annotated[int, typer.Option("--responses", min=4, help="Responses of the campaign.")] = 400_000,
    response_bytes: Annotated[int, typer.Option("--response-bytes", min=100, help="Size of each response.")] = 1350,
    keep: Annotated[Path | None, typer.Option("--keep", help="Directory to keep the campaign in and to use again.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time the start, the next pair, the overview and the joined Parquet export of a large campaign on this machine."""
    from annotate_app.bench_export import measure

    note(f"Writing {judgments:,} judgments on {responses:,} responses ...")
    result = measure(judgments=judgments, responses=responses, response_bytes=response_bytes, directory=keep)
    if as_json:
        print(json.dumps(result))
        return
    pairs = result["next_pair_ms"]
    print(f"start           {result['start_s']:.1f} s")
    print(f"next pair       p50 {pairs['p50']:.0f} ms, p95 {pairs['p95']:.0f} ms (the first {pairs['first']:.0f} ms)")
    print(f"overview        {result['overview_s']:.2f} s")
    print(f"joined export   {result['export_s']:.1f} s, {result['export_bytes'] / 1e6:,.0f} MB of Parquet")
    before, most = result["memory_before_export_bytes"] / 1e9, result["memory_bytes"] / 1e9
    print(f"memory at most  {most:.2f} GB ({before:.2f} GB before the export)")
