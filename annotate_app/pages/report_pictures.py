"""The pictures of a report as SVG text: no scripts, colours from the style sheet (report.css), so they follow light and dark.

Each is drawn 460 units wide and scaled by the page. Nothing here comes from a model or a person but names, which are escaped.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 460, 150, 24
ROW = 40
VERDICT_CLASSES = {"a": "fill-1", "b": "fill-2", "tie": "fill-3", "both_bad": "fill-4", "skip": "fill-5"}


def intervals(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> str:
    """Shares with their 95 % intervals, one row each, on an axis from 0 to 1 with a line at one half."""
    height = 34 + ROW * len(rows)
    marks = [_share_axis(height), f'<line class="half" x1="{_x(0.5)}" x2="{_x(0.5)}" y1="6" y2="{height - 26}"/>']
    for index, (name, value) in enumerate(rows):
        y = 6 + ROW * index + ROW / 2
        mean = value["mean"] or 0.0
        low, high = (mean if value[key] is None else value[key] for key in ("low", "high"))
        marks.append(_label(LEFT - 12, y + 4, name, anchor="end"))
        marks.append(f'<line class="whisker" x1="{_x(low)}" x2="{_x(high)}" y1="{y}" y2="{y}"/>')
        marks.append(f'<circle class="fill-1" cx="{_x(mean)}" cy="{y}" r="6"/>')
        marks.append(_label(_x(mean), y - 11, f"{mean:.0%}", anchor="middle", kind="strong"))
    return _svg(height, "Win rates with their intervals", marks)


def reliability(bins: Sequence[Sequence[float]]) -> str:
    """Observed share against predicted probability, both from 50 to 100 %; a bin is (predicted, observed, count)."""
    size, left, top = 290, 62, 10
    low = min([0.5, *(value for bin_ in bins for value in bin_[:2])]) - 0.02

    def place(share: float) -> float:
        return size * (share - low) / (1.02 - low)

    marks = [f'<rect class="frame" x="{left}" y="{top}" width="{size}" height="{size}"/>']
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x, y = left + place(tick), top + size - place(tick)
        marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + size}"/>')
        marks.append(f'<line class="grid" x1="{left}" x2="{left + size}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(_label(x, top + size + 18, f"{tick:.0%}", anchor="middle"))
        marks.append(_label(left - 8, y + 4, f"{tick:.0%}", anchor="end"))
    start, end = place(max(low, 0.48)), place(1.0)
    marks.append(
        f'<line class="half" x1="{left + start:.1f}" y1="{top + size - start:.1f}" x2="{left + end:.1f}" '
        f'y2="{top + size - end:.1f}"/>'
    )
    largest = max((count for *_, count in bins), default=1)
    for predicted, observed, count in bins:
        radius = 4 + 4 * (count / largest) ** 0.5
        x, y = left + place(predicted), top + size - place(observed)
        title = f"<title>{predicted:.0%} predicted, {observed:.0%} observed, {count:.0f} judgments</title>"
        marks.append(f'<circle class="fill-2" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{title}</circle>')
    marks.append(_label(left + size / 2, top + size + 40, "predicted", anchor="middle"))
    turn = f"rotate(-90 14 {top + size / 2:.0f})"
    marks.append(f'<text x="14" y="{top + size / 2:.0f}" text-anchor="middle" transform="{turn}">observed</text>')
    return _svg(top + size + 50, "Reliability of the preference model", marks)


def circle(probabilities: Sequence[float]) -> str:
    """Three responses 1, 2, 3 on a circle; each arrow goes from the one that wins to the one that loses, with how often."""
    centre_x, centre_y, radius, disc = WIDTH / 2, 138, 96, 25
    corners = [
        (centre_x + radius * math.sin(angle), centre_y - radius * math.cos(angle))
        for angle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    ]
    marks = [
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 10 5 0 10z"/></marker></defs>'
    ]
    for index, probability in enumerate(probabilities):
        (x1, y1), (x2, y2) = corners[index], corners[(index + 1) % 3]
        length = math.hypot(x2 - x1, y2 - y1)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        marks.append(
            f'<line class="arrow" x1="{x1 + dx * (disc + 3):.1f}" y1="{y1 + dy * (disc + 3):.1f}" '
            f'x2="{x2 - dx * (disc + 4):.1f}" y2="{y2 - dy * (disc + 4):.1f}" marker-end="url(#head)"/>'
        )
        x, y = (x1 + x2) / 2 + dy * 34, (y1 + y2) / 2 - dx * 20 + 5  # outside: to the left of the way around
        marks.append(_label(x, y, f"{probability:.0%}", anchor="middle", kind="strong"))
    for index, (x, y) in enumerate(corners):
        marks.append(f'<circle class="fill-1" cx="{x:.1f}" cy="{y:.1f}" r="{disc}"/>')
        marks.append(_label(x, y + 6, str(index + 1), anchor="middle", kind="on-fill"))
    return _svg(260, "Three responses that beat each other in a circle", marks)


def unexplained(residual: float, null_mean: float) -> str:
    """The share of the votes' log odds that no utility explains, and a mark where transitive votes would be."""
    left, width, y = 12, WIDTH - 24, 34
    mark = left + width * null_mean
    return _svg(
        104,
        "How much of the votes no single scale explains",
        [
            f'<rect class="track" x="{left}" y="{y}" width="{width}" height="24" rx="4"/>',
            f'<rect class="fill-2" x="{left}" y="{y}" width="{width * residual:.1f}" height="24" rx="4"/>',
            f'<line class="mark" x1="{mark:.1f}" x2="{mark:.1f}" y1="{y - 6}" y2="{y + 30}"/>',
            _label(left, y - 12, f"{residual:.0%} not explained by any scale", kind="strong"),
            _label(
                min(max(mark, 110), WIDTH - 110), y + 50, f"{null_mean:.0%} expected of votes without cycles", anchor="middle"
            ),
        ],
    )


def shares(counts: Mapping[str, int], names: Mapping[str, str]) -> str:
    """One bar cut into the shares of verdicts, with its legend below."""
    total = sum(counts.values()) or 1
    marks, x = [], 12.0
    width = WIDTH - 24
    for name, count in counts.items():
        part = width * count / total
        kind = VERDICT_CLASSES.get(name, "fill-5")
        title = f"<title>{escape(names.get(name, name))}: {count}</title>"
        marks.append(f'<rect class="{kind}" x="{x:.1f}" y="8" width="{max(part - 1, 0):.1f}" height="28">{title}</rect>')
        x += part
    for index, (name, count) in enumerate(counts.items()):
        column, row = index % 2, index // 2
        legend_x, legend_y = 12 + column * 224, 62 + row * 24
        kind = VERDICT_CLASSES.get(name, "fill-5")
        marks.append(f'<rect class="{kind}" x="{legend_x}" y="{legend_y - 11}" width="12" height="12" rx="2"/>')
        marks.append(_label(legend_x + 18, legend_y, f"{names.get(name, name)} {count / total:.0%}"))
    return _svg(56 + 24 * -(-len(counts) // 2), "Shares of the verdicts", marks)


def bars(values: Mapping[str, float], unit: str) -> str:
    """Horizontal bars, one per name, with the number at the end."""
    largest = max(values.values(), default=1) or 1
    height = 12 + 28 * len(values)
    marks = []
    for index, (name, value) in enumerate(values.items()):
        y, width = 8 + 28 * index, (WIDTH - LEFT - RIGHT - 40) * value / largest
        marks.append(_label(LEFT - 12, y + 14, name, anchor="end"))
        marks.append(f'<rect class="fill-1" x="{LEFT}" y="{y}" width="{width:.1f}" height="18" rx="3"/>')
        marks.append(_label(LEFT + width + 8, y + 14, f"{value:.0f} {unit}"))
    return _svg(height, "Bars", marks)


def columns(counts: Sequence[int], first: str, last: str) -> str:
    """A column for each count, the largest labelled; ``first`` and ``last`` are written below the ends."""
    left, width, height = 12, WIDTH - 24, 110
    largest, step = max(counts, default=0) or 1, width / max(len(counts), 1)
    marks = [f'<line class="grid" x1="{left}" x2="{left + width}" y1="{height + 26}" y2="{height + 26}"/>']
    for index, count in enumerate(counts):
        tall = height * count / largest
        x, y = left + index * step, 26 + height - tall
        marks.append(f'<rect class="fill-1" x="{x + 1.5:.1f}" y="{y:.1f}" width="{step - 3:.1f}" height="{tall:.1f}" rx="2"/>')
        if count == largest and not any(other == largest for other in counts[:index]):
            anchor = "end" if index > len(counts) / 2 else "start"
            marks.append(_label(x + (step if anchor == "end" else 0), y - 6, f"{count:,}", anchor=anchor, kind="strong"))
    marks += [_label(left, height + 44, first), _label(left + width, height + 44, last, anchor="end")]
    return _svg(height + 52, "Labels per hour", marks)


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """Small multiples, two in a row: each series by its readings, with its first and last value."""
    wide, tall, gap = 218, 96, 24
    marks = []
    for index, (name, values) in enumerate(series.items()):
        left, top = (wide + gap) * (index % 2), (tall + 64) * (index // 2) + 22
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        step = wide / max(len(values) - 1, 1)
        points = " ".join(f"{left + i * step:.1f},{top + tall * (1 - (v - low) / span):.1f}" for i, v in enumerate(values))
        marks.append(_label(left, top - 9, name, kind="strong"))
        marks.append(f'<line class="grid" x1="{left}" x2="{left + wide}" y1="{top + tall + 4}" y2="{top + tall + 4}"/>')
        marks.append(f'<polyline class="curve" points="{points}"/>')
        marks.append(_label(left, top + tall + 18, f"{values[0]:.3g}"))
        marks.append(_label(left + wide, top + tall + 18, f"{values[-1]:.3g}", anchor="end"))
    return _svg((tall + 64) * -(-len(series) // 2) - 14, "Curves of the running job", marks)


def _share_axis(height: float) -> str:
    marks = []
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        marks.append(f'<line class="grid" x1="{_x(tick)}" x2="{_x(tick)}" y1="6" y2="{height - 26}"/>')
        marks.append(_label(_x(tick), height - 8, f"{tick:.0%}", anchor="middle"))
    return "".join(marks)


def _x(share: Any) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * float(share), 1)


def _label(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _svg(height: float, title: str, marks: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(marks) + "</svg>"
