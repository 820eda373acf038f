"""The values of a rule's settings in one job: as a person set them, or picked automatically, with the reason."""

from dataclasses import asdict, fields
from typing import Any

from online_learner.jobs import Job, read_json
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule

AUTO = {True: {"step_size": 3.0, "kl_coef": 0.05}, False: {"step_size": 5.0, "kl_coef": 0.01}}  # with and without cycles
# Also with cycles the first steps are larger: far from the equilibrium they overshoot nothing. Near it a step of 4 goes around
# it even in the exact game: gap .20 after eight rounds, .09 where it falls to 3 (tests/online_learner/test_rule_values.py).
FIRST_STEPS = (5.0, 4.0, 4.0)
LARGEST_FLIP_RATE = 0.4  # the correction for flips divides by 1 - 2 e


def pick_settings(job: Job) -> tuple[RuleSettings, dict[str, str]]:
    """Values checked against the rule, and one sentence for each that was left on auto; needs the fitted preference model."""
    rule, wanted = get_rule(job.settings.update.rule), job.settings.update
    data = _from_data(job)
    values: dict[str, float] = {}
    why: dict[str, str] = {}
    for name in (field.name for field in fields(RuleSettings)):
        value = getattr(wanted, name)
        if value != "auto":
            values[name] = float(value)
        elif name in (rule.auto or {}):
            values[name], why[name] = float((rule.auto or {})[name]), f"automatic: suits {rule.name}"
        elif name in data:
            values[name], why[name] = data[name]
        else:
            values[name], why[name] = getattr(RuleSettings(), name), "automatic: the usual value"
    settings = RuleSettings(**values)
    rule.check(settings)
    return settings, why


def automatic_step(cyclic: bool, parents_number: int) -> float:
    """Step size from the policy of this number, 0 the base, where the audit finds cycles or does not."""
    return FIRST_STEPS[parents_number] if cyclic and parents_number < len(FIRST_STEPS) else AUTO[cyclic]["step_size"]


def momentum_setting(job: Job) -> float:
    """The momentum of this job, known before any stage has run: no data are asked for it."""
    rule, wanted = get_rule(job.settings.update.rule), job.settings.update.momentum
    return float((rule.auto or {}).get("momentum", RuleSettings().momentum) if wanted == "auto" else wanted)


def picked_settings(job: Job) -> RuleSettings:
    """What ``pick_settings`` found, as the anchors stage kept it."""
    return RuleSettings(**read_json(job.stage_dir("anchors") / "picked.json")["settings"])


def as_json(settings: RuleSettings) -> dict[str, float]:
    """Plain values by name."""
    return asdict(settings)


def _from_data(job: Job) -> dict[str, tuple[float, str]]:
    """Name -> value and reason, for settings that the data decide."""
    stage = job.stage_dir("preference_model")
    cyclic = read_json(stage / "audit.json").get("cyclic") is True
    reason = f"automatic: the audit {'found' if cyclic else 'did not find'} cycles"
    found: dict[str, tuple[float, str]] = {name: (value, reason) for name, value in AUTO[cyclic].items()}
    step = automatic_step(cyclic, job.lineage["policies"][job.lineage["parent"]]["number"])
    if step > AUTO[cyclic]["step_size"]:
        found["step_size"] = step, f"{reason}, and the first steps may be larger"
    flips: dict[str, Any] = read_json(stage / "preference.json").get("annotator_flips") or {}
    if flips:
        mean = sum(flips.values()) / len(flips)
        found["flip_rate"] = min(mean, LARGEST_FLIP_RATE), "automatic: the mean flip rate that the preference model found"
    return found
