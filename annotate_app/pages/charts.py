"""Plotly figures of the console. Pure: records in, figure out. Colours are Okabe-Ito and read on light and dark alike.

Gradio does not theme Plotly, so paper and plot are transparent and text is a grey with contrast on both. Every figure has a
table or a sentence beside it on the page: a picture is never the only way to read a number.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#3b8fd4", "#e69f00", "#14a37f", "#d5703b", "#b678a8"
GREY = "#7d8793"
STAGE_METRICS_SHOWN = 6
HOUR_MS = 3_600_000


def labels_over_time(hours: Sequence[tuple[str, int]]) -> go.Figure:
    """Bars of judgments per hour; ``hours`` holds (ISO hour, count)."""
    bars = go.Bar(
        x=[hour for hour, _ in hours], y=[count for _, count in hours], marker_color=BLUE, width=HOUR_MS, xperiodalignment="start"
    )
    figure = go.Figure(bars)
    if hours:  # never less than a day, or a single bar fills the picture
        last = datetime.fromisoformat(hours[-1][0]) + timedelta(hours=1)
        first = min(datetime.fromisoformat(hours[0][0]), last - timedelta(days=1)) - timedelta(hours=1)
        figure.update_xaxes(range=[first.isoformat(), last.isoformat()], type="date")
    return _styled(figure, y_title="", height=260)


def metric_curves(lines: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """Small multiples, one per metric name, in the order in which names first appear; x counts its readings. None without any."""
    series: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, int | float):
                series.setdefault(name, []).append(float(value))
    shown = [(name, values) for name, values in series.items() if len(values) > 1][:STAGE_METRICS_SHOWN]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[name for name, _ in shown], vertical_spacing=0.2)
    for index, (name, values) in enumerate(shown):
        line = go.Scatter(y=values, x=list(range(1, len(values) + 1)), name=name, line={"color": BLUE, "width": 2})
        figure.add_trace(line, row=index // columns + 1, col=index % columns + 1)
    return _styled(figure, y_title="", height=110 + 170 * rows)


def rounds_over_time(points: Sequence[tuple[str, Mapping[str, Any]]]) -> go.Figure:
    """Win rate against the base policy by policy, with its interval as a band; a point is (policy name, interval)."""
    names = [name for name, _ in points]
    low, high, mean = ([_or(value[key], value["mean"]) for _, value in points] for key in ("low", "high", "mean"))
    figure = go.Figure()
    figure.add_trace(go.Scatter(x=names, y=high, mode="lines", line={"width": 0}, hoverinfo="skip"))
    figure.add_trace(
        go.Scatter(
            x=names, y=low, mode="lines", line={"width": 0}, fill="tonexty", fillcolor="rgba(59,143,212,.22)", hoverinfo="skip"
        )
    )
    figure.add_trace(go.Scatter(x=names, y=mean, mode="lines+markers", line={"color": BLUE, "width": 3}, marker={"size": 9}))
    figure.add_hline(y=0.5, line_dash="dot", line_color=GREY)
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return _styled(figure, y_title="", height=310)


def _or(limit: float | None, mean: float) -> float:
    """A limit that is unknown (an interval from a single prompt) is drawn as no interval."""
    return mean if limit is None else limit


def _styled(figure: go.Figure, *, y_title: str, height: int) -> go.Figure:
    grid: dict[str, Any] = {"gridcolor": "rgba(125,135,147,.22)", "zeroline": False}
    figure.update_layout(
        height=height,
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "family": "system-ui, sans-serif", "size": 13},
        margin={"l": 56, "r": 16, "t": 54, "b": 44},  # room for the label that Gradio lays over the top
    )
    figure.update_xaxes(automargin=True, title_font_size=13, **grid)
    figure.update_yaxes(automargin=True, title_font_size=13, **grid)
    if y_title:
        figure.update_yaxes(title=y_title)
    return figure
