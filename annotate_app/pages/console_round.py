"""The console's Round tab: settings, start, and what the newest job is doing."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from annotate_app.context import AppContext
from annotate_app.job_setup import OPTION_NAMES
from annotate_app.pages import console_text as text
from annotate_app.pages.console_parts import Part, actor, enabled, on_click
from annotate_app.pages.now_html import STOPPED
from annotate_app.pair_selection import MIX, SELECTIONS
from storage.contract.settings import GenerationSettings, JobSettings, UpdateSettings, build_settings
from storage.errors import UserError
from storage.records import Round

KINDS = [
    ("Round: learn, then make a policy", "round"),
    ("Fit preference models only", "fit"),
    ("More responses to label", "generate"),
    ("Evaluate the serving policy", "evaluate"),
]


def build_round(context: AppContext, problem: gr.Markdown) -> list[Part]:
    """The tab; returns what a page follows while it is open. The newest job is shown by static/overview.js."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            start, inputs, run, defaults = _settings_form(context)
        with gr.Column(scale=3, min_width=320, elem_id="now-column"):
            gr.Markdown("## Now")
            cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel-round")
            resume = gr.Button("Resume", visible=False, elem_id="resume-round")
            gr.Column(elem_id="now-host")
    jobs = gr.Markdown(elem_classes="sheet")
    now = Part(context.store.list_rounds, _draw_now, [jobs, start, cancel, resume])

    def newest(act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda request: act(_newest_number(context), actor=actor(request))

    on_click(start, problem, run, inputs, then=now)
    on_click(cancel, problem, newest(context.rounds.cancel), [], then=now)
    on_click(resume, problem, newest(context.rounds.resume), [], then=now)
    return [now, defaults]


def _settings_form(context: AppContext) -> tuple[gr.Button, list[Any], Callable[..., None], Part]:
    """Button, inputs, what the button does, and the part that fills the inputs with what the campaign wants of a round."""
    default = JobSettings()
    rules = {rule["name"]: rule["summary"] for rule in context.rounds.rules()}
    gr.Markdown("## Start\n\nThe defaults are what we recommend. `auto` is picked from the data and said in the report.")
    kind = gr.Dropdown(KINDS, value="round", label="Job")
    rule = gr.Dropdown(list(rules), value=default.update.rule, label="Update rule", info=rules.get(default.update.rule))
    rule.change(lambda name: gr.update(info=rules.get(name)), rule, rule, show_progress="hidden", api_visibility="private")
    promote = gr.Radio([("when the gate passes it", "gate"), ("by hand", "manual")], value="gate", label="Promote the new policy")
    with gr.Accordion("All settings", open=False):
        selections = [(words, name) for name, words in SELECTIONS.items()]
        selection = gr.Dropdown(selections, value=MIX, label="Which pairs to label next")
        overlap = gr.Number(label="Judgments per pair", info="empty: as the campaign says", precision=0, minimum=1)
        fields = _fields(default)
    start = gr.Button("Run round", variant="primary", elem_id="run-round")
    kind.change(lambda what: gr.update(value=f"Run {what}"), kind, start, show_progress="hidden", api_visibility="private")

    named: dict[str, Any] = {"promote": promote, "update.rule": rule, "selection": selection, "overlap": overlap, **fields}

    def run(request: gr.Request, what: str, *values: Any) -> None:
        asked = flat(context.store.campaign().round) | dict(zip(named, values, strict=True))
        options = {name: asked.pop(name) for name in OPTION_NAMES if name in asked}
        settings = build_settings(nested({**asked, "kind": what}), where="Settings")
        context.rounds.start(settings, actor=actor(request), options=options)

    usual = {"promote": "gate", "selection": MIX, "overlap": None, **flat(default.model_dump(mode="json"))}

    def fill(wanted: dict[str, Any]) -> list[Any]:
        values = usual | flat(wanted)
        return [gr.update(value=values[name]) for name in named]

    return start, [kind, *named.values()], run, Part(lambda: context.store.campaign().round, fill, list(named.values()))


def _fields(default: JobSettings) -> dict[str, Any]:
    """Input by dotted name of the setting; what a setting is for, is said where it is defined."""
    update, generation = UpdateSettings.model_fields, GenerationSettings.model_fields
    made: dict[str, Any] = {}
    for name, label in (("step_size", "Step size"), ("kl_coef", "Pull to the reference"), ("learning_rate", "Learning rate")):
        made[f"update.{name}"] = gr.Textbox("auto", label=label, info=update[name].description)
    made["update.epochs"] = gr.Number(default.update.epochs, label="Epochs", info=update["epochs"].description, precision=0)
    made["update.pairs"] = gr.Dropdown(["all", "random"], value="all", label="Pairs trained on", info=update["pairs"].description)
    for name, label in (("num_responses", "Responses per prompt"), ("max_new_tokens", "Longest response")):
        value = getattr(default.generation, name)
        made[f"generation.{name}"] = gr.Number(value, label=label, info=generation[name].description, precision=0)
    made["seed"] = gr.Number(
        default.seed, label="Seed", info="the same job with the same seed gives the same adapter", precision=0
    )
    return made


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings to dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def nested(dotted: dict[str, Any]) -> dict[str, Any]:
    """Dotted names to nested settings; numbers typed into text fields become numbers, everything else is validated later."""
    result: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, leaf = name.split(".")
        target = result
        for group in groups:
            target = target.setdefault(group, {})
        target[leaf] = _number(value) if isinstance(value, str) else value
    return result


def _number(typed: str) -> float | str:
    try:
        return float(typed)
    except ValueError:
        return typed.strip()  # "auto" and names stay text; validation says what is allowed


def _newest_number(context: AppContext) -> int:
    rounds = context.store.list_rounds()
    if not rounds:
        raise UserError("No job has run yet. Start one first.")
    return rounds[0].number


def _draw_now(rounds: list[Round]) -> list[Any]:
    status = rounds[0].status if rounds else ""
    running = status == "running"
    jobs = "## Jobs\n\n" + text.jobs_table(rounds)
    return [jobs, enabled(not running), gr.update(visible=running), gr.update(visible=status in STOPPED)]
