"""Plotly figures of the console. Pure: records in, figure out. Colours are Okabe-Ito and read on light and dark alike.

Gradio does not theme Plotly, so paper and plot are transparent and text is a grey with contrast on both. Every figure has a
table or a sentence beside it on the page: a picture is never the only way to read a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#3b8fd4", "#e69f00", "#14a37f", "#d5703b", "#b678a8"
GREY = "#7d8793"


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
