"""What the console's Round tab says of the newest job, as HTML: how far it is, its curves, and its log if it stopped. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from annotate_app.pages import report_pictures as pictures
from annotate_app.pages.console_text import STAGE_NAMES, duration
from annotate_app.pages.report_html import block_html, page_style
from annotate_app.pages.report_parts import Picture, Table
from annotate_app.progress import JobProgress
from annotate_app.render import show_controls

STOPPED = ("failed", "interrupted", "cancelled")  # and can be resumed
CURVES_SHOWN = 6


def now_page(job: JobProgress | None, log_tail: str, coming: Sequence[str] = ()) -> str:
    """The whole document. ``coming``: what begins or is decided by itself, a sentence each."""
    body = "<p>No job has run yet. The first one appears here.</p>" if job is None else _job(job, log_tail)
    body += "".join(f"<p>{_text(sentence)}</p>" for sentence in coming)
    head = f'<meta charset="utf-8"><title>Now</title><style>{page_style("report", "overview")}</style>'
    main = f'<main class="report overview"><div id="progress">{body}</div></main>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{main}</body></html>'


def job_html(job: JobProgress) -> str:
    """One job in a line: the stage, a bar and the time left while it runs, how it ended afterwards."""
    name = f"{job.kind.capitalize()} {job.number}"
    if job.status != "running":
        ended = "finished" if job.status == "done" else job.status
        message = (job.message or "").removeprefix(f"{ended.capitalize()}. ")
        return f"<p><strong>{escape(name)}</strong> {escape(ended)}. {_text(message)}</p>"
    left = f", about {duration(job.remaining_s)} left" if job.remaining_s is not None else ""
    stage = STAGE_NAMES.get(job.stage or "", job.stage or "starting")
    where = f"stage {job.stage_index} of {job.num_stages}: {stage}" if job.stage_index else "starting"
    return (
        f"<p><strong>{escape(name)}</strong> runs, {escape(where)}, {job.fraction:.0%}{left}.</p>"
        f'<progress max="1" value="{job.fraction:.3f}" aria-label="{escape(name)}"></progress>'
    )


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Readings by metric name, of the first six metrics with more than one, in the order in which they appear."""
    series: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, int | float):
                series.setdefault(name, []).append(float(value))
    return dict([(name, values) for name, values in series.items() if len(values) > 1][:CURVES_SHOWN])


def _job(job: JobProgress, log_tail: str) -> str:
    body = job_html(job)
    if job.status == "running" and job.message:
        body += f'<p class="small">{_text(job.message)}</p>'
    series = curves(job.metrics)
    if series:
        rows = [(name, f"{values[0]:.3g}", f"{values[-1]:.3g}", f"{len(values)}") for name, values in series.items()]
        table = Table("Curves", ("metric", "first", "last", "readings"), rows)
        body += block_html(Picture(pictures.curves(series), "Readings so far, the first and the last below each curve.", table))
    if job.status in ("failed", "interrupted") and log_tail.strip():
        body += f'<h3>Last lines of its log</h3><pre class="log" tabindex="0" aria-label="Log">{_text(log_tail)}</pre>'
    return body


def _text(text: str) -> str:
    return escape(show_controls(text))
