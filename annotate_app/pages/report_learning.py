"""What a report says of the preference model: how well it predicts, whom it trusts, whether preferences go in circles. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

from annotate_app.pages import report_pictures as pictures
from annotate_app.pages.console_text import DASH
from annotate_app.pages.report_facts import ReportFacts
from annotate_app.pages.report_parts import Block, Picture, Points, SideBySide, Table, Words

MODEL_NAMES = {
    "bradley_terry": "Bradley–Terry",
    "bt_gpm": "Bradley–Terry with a cyclic part",
    "general_preference": "general preference model",
}
SCORES = {"log_loss": "log loss", "accuracy": "right", "brier": "Brier score", "ece": "calibration error"}
VERDICTS = {True: "Yes.", False: "No sign of it.", None: "These judgments cannot tell."}


def preference_section(facts: ReportFacts) -> list[Block]:
    """Models side by side, which was taken and why, how far its probabilities can be believed, and how annotators answer."""
    preference = facts.report.get("preference", {})
    if not preference:
        return []
    models = preference.get("models", {})
    rows = [
        (_model_name(name) + (" (taken)" if name == preference.get("selected") else ""), *(_score(m, key) for key in SCORES))
        for name, m in models.items()
    ]
    blocks: list[Block] = [
        Words(f"Fitted to {preference.get('num_decided', 0):,} decided judgments and tested on prompts it was not fitted to."),
        Table("Models on unseen prompts", ("model", *SCORES.values()), rows),
        Points([("", sentence) for sentence in (_why(preference), _position_bias(preference)) if sentence]),
    ]
    bins = preference.get("reliability", [])
    if bins:
        numbers = [(f"{predicted:.0%}", f"{observed:.0%}", f"{count:.0f}") for predicted, observed, count in bins]
        caption = (
            "Reliability on unseen prompts: how often the likelier response won, against how likely the model said it was. "
            "Points on the dotted line are probabilities that can be taken at their word; larger points hold more judgments."
        )
        table = Table("Reliability", ("predicted", "observed", "judgments"), numbers)
        blocks.append(Picture(pictures.reliability(bins), caption, table))
    people = _people(facts, preference)
    return [*blocks, people] if people else blocks


def _people(facts: ReportFacts, preference: Mapping[str, Any]) -> Table | None:
    """How annotators answer, the least reliable first; None where none were told apart."""
    flips, scales = preference.get("annotator_flips") or {}, preference.get("annotator_scales") or {}
    if not flips:
        return None
    ordered = sorted(flips, key=lambda who: -flips[who])
    rows = [(facts.annotators.get(who, who), f"{flips[who]:.1%}") for who in ordered]
    header = ("annotator", "verdicts the wrong way round")
    if scales:
        rows = [(*row, f"{scales[who]:.2f} times" if who in scales else DASH) for row, who in zip(rows, ordered, strict=True)]
        header = (*header, "sharpness beside the others")
    return Table("How annotators answer, as the model sees it", header, rows)


def audit_section(facts: ReportFacts) -> list[Block]:
    """The verdict of the audit in words, the looks behind it, how much no scale explains, and the clearest circle."""
    audit = facts.report.get("audit", {})
    if not audit.get("sentence"):
        return []
    votes = audit.get("votes") or {}
    looks = {"hodge": "Votes", "triads": "Triads", "annotators": "Annotators"}
    said = [(name, votes[key]["sentence"]) for key, name in looks.items() if votes.get(key, {}).get("sentence")]
    if votes.get("curl", {}).get("num_triangles"):
        said.append(("Triangles", _triangles(votes["curl"])))
    if not said and votes.get("sentence"):
        said.append(("Votes", votes["sentence"]))
    new = [(name, sentence) for name, sentence in said if sentence not in audit["sentence"]]
    blocks: list[Block] = [Words(f"{VERDICTS[audit.get('cyclic')]} {audit['sentence']}")]
    if new:
        blocks.append(Points(new))
    hodge = votes.get("hodge")
    if hodge:
        blocks.append(_unexplained(hodge))
    return [*blocks, *_circle(facts)]


def _triangles(curl: Mapping[str, Any]) -> str:
    return (
        f"Of {curl['num_triangles']} judged triangles {curl['num_significant']} are circular beyond chance, each by itself "
        f"(largest z {curl['largest_z']:.1f})."
    )


def _unexplained(hodge: Mapping[str, float]) -> Picture:
    share, expected = hodge["residual_share"], hodge["null_mean"]
    caption = (
        "The part of the votes that no single scale of better and worse explains. Noise leaves some too: only what goes beyond "
        f"the mark speaks of circles (p = {hodge['p_value']:.3f})."
    )
    rows = [("not explained by any scale", f"{share:.0%}"), ("expected of votes without cycles", f"{expected:.0%}")]
    if hodge.get("local_share") is not None:
        rows.append(("of the unexplained part, in triangles", f"{hodge['local_share']:.0%}"))
    return Picture(pictures.unexplained(share, expected), caption, Table("Unexplained", ("part", "share"), rows))


def _circle(facts: ReportFacts) -> list[Block]:
    found = facts.circle
    if found is None:
        return []
    names = ("response 1", "response 2", "response 3")
    rows = [(f"{names[i]} over {names[(i + 1) % 3]}", f"{p:.0%}") for i, p in enumerate(found.probabilities)]
    caption = (
        "The clearest circle in the fitted model. An arrow points from the response that wins to the one that loses; no order of "
        "the three agrees with all arrows, so no single score per response can."
    )
    return [
        Picture(pictures.circle(found.probabilities), caption, Table("Clearest circle", ("comparison", "wins"), rows)),
        SideBySide(found.prompt, [(f"Response {i + 1}", text) for i, text in enumerate(found.texts)]),
    ]


def _why(preference: Mapping[str, Any]) -> str:
    why = preference.get("why")
    if not why:
        return ""
    named = re.sub("|".join(MODEL_NAMES), lambda found: MODEL_NAMES[found.group()], why)
    return f"Why {_model_name(preference.get('selected', ''))} was taken: {named}."


def _position_bias(preference: Mapping[str, Any]) -> str:
    bias = preference.get("position_bias")
    if bias is None:
        return ""
    share = 1 / (1 + math.exp(-bias))
    return f"Of two equally good responses, the one shown first is preferred in {share:.1%} of cases; the fit corrects for it."


def _model_name(name: str) -> str:
    return MODEL_NAMES.get(name, name)


def _score(scores: Mapping[str, float | None], key: str) -> str:
    value = scores.get(key)
    if value is None:
        return DASH
    return f"{value:.1%}" if key == "accuracy" else f"{value:.3f}"
