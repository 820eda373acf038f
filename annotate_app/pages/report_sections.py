"""The body of a job's report: what went in, what was learnt, how far the policy moved, what it says now. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from annotate_app.pages import report_pictures as pictures
from annotate_app.pages.console_text import DASH, STAGE_NAMES, duration, interval
from annotate_app.pages.report_facts import ReportFacts
from annotate_app.pages.report_learning import audit_section, preference_section
from annotate_app.pages.report_parts import Block, Picture, Points, Section, SideBySide, Table, Words
from storage.contract.settings import JobSettings, UpdateSettings

VERDICT_NAMES: dict[str, str] = {
    "a": "first is better",
    "b": "second is better",
    "tie": "tie",
    "both_bad": "both bad",
    "skip": "skipped",
}
SETTING_NAMES = {
    "rule": "update rule",
    "step_size": "step size (eta)",
    "kl_coef": "pull to the reference (tau)",
    "learning_rate": "learning rate",
    "device": "computed on",
}
RATE_NAMES = {
    "win_rate_vs_parent": "vs its parent",
    "length_controlled_vs_parent": "at equal length",
    "win_rate_vs_base": "vs the base",
}
KL_NAMES = {"kl_to_parent_nats": "KL to its parent, nats", "kl_to_base_nats": "KL to the base policy, nats"}
FIT_NAMES = {
    "achieved_fraction": "reached of the step",
    "train_r2": "target margins explained, training prompts",
    "heldout_r2": "target margins explained, unseen prompts",
}


def build_sections(facts: ReportFacts) -> list[Section]:
    """All sections that have something to say, in reading order."""
    made = [
        Section("went-in", "What went in", _went_in(facts)),
        Section("preference-model", "The preference model", preference_section(facts)),
        Section("cycles", "Are preferences cyclic?", audit_section(facts)),
        Section("step", "The step", _step(facts)),
        Section("outcome", "What it changed", _outcome(facts.report)),
        Section("examples", "Before and after", _examples(facts.report)),
        Section("record", "For the record", _record(facts)),
    ]
    return [section for section in made if section.blocks]


def _went_in(facts: ReportFacts) -> list[Block]:
    data, blocks = facts.report.get("data", {}), []
    if data:
        blocks.append(
            Words(
                f"{data['num_judgments']:,} judgments by {_count(data['num_annotators'], 'annotator')}, on "
                f"{data.get('num_responses', 0):,} responses to {_count(data['num_prompts'], 'prompt')}. "
                "First and second are the order shown, which is drawn anew for each pair."
            )
        )
    verdicts: dict[str, int] = data.get("verdicts", {})
    if verdicts:
        total = sum(verdicts.values()) or 1
        rows = [(VERDICT_NAMES.get(name, name), f"{count:,}", f"{count / total:.0%}") for name, count in verdicts.items()]
        numbers = Table("Verdicts", ("verdict", "judgments", "share"), rows)
        blocks.append(Picture(pictures.shares(verdicts, VERDICT_NAMES), "What annotators answered.", numbers))
    return [*blocks, *_settings(facts)]


def _settings(facts: ReportFacts) -> list[Block]:
    picked: dict[str, Any] = facts.report.get("picked", {})
    why: dict[str, str] = facts.report.get("picked_why", {})
    blocks: list[Block] = []
    if picked:
        known = UpdateSettings.model_fields
        reasons = {name: str(why.get(name) or (known[name].description if name in known else "") or "") for name in picked}
        reasons["rule"] = facts.rule_summary
        rows = [(SETTING_NAMES.get(name, name), _short(value), reasons[name]) for name, value in picked.items()]
        blocks.append(Table("Settings that ran", ("setting", "value", "why, or what it is"), rows, told=True))
    changed = changed_settings(facts.settings)
    if changed:
        blocks.append(Points([("", f"Changed by hand: {name} = {value}") for name, value in changed]))
    return blocks


def changed_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(dotted name, value) of each setting that is not its default; kind and seed are said elsewhere."""
    default = JobSettings().model_dump(mode="json")
    found = []
    for name, value in settings.items():
        if name in ("kind", "seed", "options", "device"):
            continue
        inner = value if isinstance(value, Mapping) else {"": value}
        usual = default.get(name) if isinstance(value, Mapping) else {"": default.get(name)}
        for leaf, chosen in inner.items():
            if (usual or {}).get(leaf, chosen) != chosen:
                found.append((f"{name}.{leaf}".rstrip("."), _short(chosen)))
    return found


def _step(facts: ReportFacts) -> list[Block]:
    update = facts.report.get("update", {})
    meaning: dict[str, str] = facts.report.get("meaning", {})
    if not update:
        return []
    rows = [(label, _share(update[key]), meaning.get(key, "")) for key, label in FIT_NAMES.items() if update.get(key) is not None]
    blocks: list[Block] = [Words(f"From {facts.parent} to {facts.made or 'a new policy'}, by one step of the update rule.")]
    if rows:
        blocks.append(Table("How well the step was taken", ("measure", "value", "what it means"), rows, told=True))
    anchors = update.get("anchors", {})
    if anchors:
        named = [(facts.policies.get(policy, "a policy of elsewhere"), f"{weight:.0%}") for policy, weight in anchors.items()]
        blocks.append(Table("Policies that the step starts from, mixed", ("policy", "weight"), named))
    return blocks


def _outcome(report: Mapping[str, Any]) -> list[Block]:
    evaluation = report.get("evaluation", {})
    meaning: dict[str, str] = report.get("meaning", {})
    blocks: list[Block] = []
    rates = [(label, evaluation[key]) for key, label in RATE_NAMES.items() if evaluation.get(key)]
    if rates:
        table = Table("Win rates", ("win rate", "value (95 % interval)"), [(label, interval(value)) for label, value in rates])
        caption = (
            f"Win rates that the preference model expects on {evaluation.get('num_prompts', 'the')} held-out prompts, with 95 % "
            "intervals over prompts. The dotted line is no difference."
        )
        blocks.append(Picture(pictures.intervals(rates), caption, table))
    rows = [
        (label, interval(evaluation[key], percent=False), meaning.get(key, _KL_TO_BASE if "base" in key else ""))
        for key, label in KL_NAMES.items()
        if evaluation.get(key)
    ]
    if evaluation.get("text_quality") is not None:
        rows.append(("text quality", f"{evaluation['text_quality']:.0%}", meaning.get("text_quality", "")))
    if rows:
        blocks.append(Table("How far it went", ("measure", "value (95 % interval)", "what it means"), rows, told=True))
    said = [
        ("Length", _length(evaluation)),
        ("Restricted duality gap", _gap(evaluation)),
        ("Value above the base", meaning.get("value_vs_base", "")),
    ]
    found = [(name, sentence) for name, sentence in said if sentence]
    return [*blocks, Points(found)] if found else blocks


_KL_TO_BASE = "How far all rounds together moved from the policy that the campaign began with."


def _length(evaluation: Mapping[str, Any]) -> str:
    tokens = evaluation.get("mean_tokens", {})
    rate, controlled = evaluation.get("win_rate_vs_parent"), evaluation.get("length_controlled_vs_parent")
    if "parent" not in tokens or "policy" not in tokens:
        return ""
    said = f"Responses went from {tokens['parent']:.0f} to {tokens['policy']:.0f} tokens on average."
    if not rate or not controlled:
        return said
    points = 100 * (rate["mean"] - controlled["mean"])
    if abs(points) < 0.5:
        return f"{said} Length explains none of the win rate."
    return f"{said} Length explains {points:+.1f} points of the win rate; at equal length it is {interval(controlled)}."


def _gap(evaluation: Mapping[str, Any]) -> str:
    gap = evaluation.get("restricted_duality_gap")
    if not gap:
        return ""
    return (
        f"{gap['value']:.3f}. Whoever may answer each prompt with the best response among {gap['search_set']} beats "
        f"the new policy in {(1 + gap['value']) / 2:.0%} of comparisons. At 0 nothing in that set beats it; a wider search can "
        "only find more."
    )


def _examples(report: Mapping[str, Any]) -> list[Block]:
    return [
        SideBySide(example["prompt"], (("Before: the parent", example["before"]), ("After: the new policy", example["after"])))
        for example in report.get("examples", [])
    ]


def _record(facts: ReportFacts) -> list[Block]:
    report, blocks = facts.report, []
    seconds = {STAGE_NAMES.get(stage, str(stage)): value for stage, value in report.get("seconds", {}).items()}
    if seconds:
        rows = [(name, duration(value)) for name, value in seconds.items()]
        caption = f"Where its {duration(sum(seconds.values()))} went."
        blocks.append(Picture(pictures.bars(seconds, "s"), caption, Table("Time", ("stage", "time"), rows)))
    versions = ", ".join(f"{name} {value}" for name, value in report.get("versions", {}).items())
    said = [
        ("Seed", str(facts.settings.get("seed", 0))),
        ("Versions", versions),
        ("Started", f"{facts.started_at:%Y-%m-%d %H:%M} UTC"),
    ]
    return [*blocks, Points([(name, value) for name, value in said if value])]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _short(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
