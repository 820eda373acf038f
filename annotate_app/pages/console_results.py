"""The console's Reports and Policies tabs: what a finished job found, and which policy serves."""

from typing import Any

import gradio as gr

from annotate_app.context import AppContext
from annotate_app.pages import charts
from annotate_app.pages import console_text as text
from annotate_app.pages.console_parts import Part, actor, figure, on_click
from storage.errors import UserError

NOTHING = "No job has finished yet. Its report appears here."
NUM_EVENTS = 12
RATES = {
    "win_rate_vs_parent": "vs parent",
    "length_controlled_vs_parent": "vs parent, equal length",
    "win_rate_vs_base": "vs base",
}


def build_reports(context: AppContext, problem: gr.Markdown) -> Part:
    """The report of one job in words, tables and pictures."""
    chosen = gr.Dropdown([], label="Job", elem_id="report-choice")
    summary = gr.Markdown(elem_classes="sheet")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            evaluation = gr.Markdown(elem_classes="sheet")
            rates = gr.Plot(label="Win rates the preference model expects on held-out prompts, 95 % interval", visible=False)
        with gr.Column(min_width=320):
            preference = gr.Markdown(elem_classes="sheet")
            calibration = gr.Plot(label="Reliability of the preference model", visible=False)
    examples = gr.Markdown(elem_classes="sheet", elem_id="examples")
    times = gr.Plot(label="Seconds per stage", visible=False)
    body = [summary, evaluation, rates, preference, calibration, examples, times]

    def read() -> list[tuple[str, int]]:
        jobs = [r for r in context.store.list_rounds() if r.status == "done" and context.rounds.report(r.number)]
        return [(f"{r.kind} {r.number}, {r.created_at:%Y-%m-%d %H:%M} UTC", r.number) for r in jobs]

    def draw(choices: list[tuple[str, int]]) -> list[Any]:
        rounds = [number for label, number in choices if label.startswith("round")]
        newest = next(iter(rounds), choices[0][1] if choices else None)
        return [gr.update(choices=choices, value=newest), *show(newest)]

    def show(number: int | None) -> list[Any]:
        return _draw_report(context.rounds.report(int(number)) if number else None)

    chosen.input(show, chosen, body, show_progress="hidden", api_visibility="private")
    return Part(read, draw, [chosen, *body])


def _draw_report(report: Any) -> list[Any]:
    if not report:
        return [NOTHING, "", figure(None), "", figure(None), "", figure(None)]
    measured = report.get("evaluation", {})
    rows = [(label, measured[key]) for key, label in RATES.items() if measured.get(key)]
    bins = report.get("preference", {}).get("reliability", [])
    seconds = {text.STAGE_NAMES.get(stage, str(stage)): value for stage, value in report.get("seconds", {}).items()}
    return [
        text.report_summary(report),
        text.evaluation_table(report),
        figure(charts.intervals(rows) if rows else None),
        text.preference_table(report),
        figure(charts.reliability(bins) if bins else None),
        text.examples_table(report),
        figure(charts.seconds_by_stage(seconds) if seconds else None),
    ]


def build_policies(context: AppContext, problem: gr.Markdown) -> Part:
    """All policies, which one serves, and the two buttons that change it."""
    rows = gr.Markdown(elem_id="policies", elem_classes="sheet")
    over_time = gr.Plot(label="Win rate against the base policy, as the preference model expects it", visible=False)
    with gr.Row(equal_height=True, elem_classes="fields"):
        chosen = gr.Dropdown([], label="Policy", elem_id="policy-choice")
        reason = gr.Textbox(label="Reason, for the audit log", max_length=500)
        promote = gr.Button("Promote", variant="primary", scale=0, min_width=150, elem_id="promote")
        back = gr.Button("Roll back", variant="stop", scale=0, min_width=150, elem_id="rollback")
    history = gr.Markdown(elem_id="history", elem_classes="sheet")

    def read() -> tuple[Any, ...]:
        reports = {r.new_policy_id: context.rounds.report(r.number) or {} for r in context.store.list_rounds() if r.new_policy_id}
        promotions = context.store.list_events(kind_prefix="policy.promoted", limit=1_000_000)[-NUM_EVENTS:]
        names = {user.id: user.name for user in context.store.list_users()}
        return context.store.list_policies(), reports, promotions, names

    def draw(data: tuple[Any, ...]) -> list[Any]:
        policies, reports, promotions, names = data
        table = text.table(text.POLICY_COLUMNS, text.policies_rows(policies, reports))
        won = [(p, reports.get(p.id, {}).get("evaluation", {}).get("win_rate_vs_base")) for p in policies]
        points = [(text.policy_name(policy), rate) for policy, rate in won if rate]
        choices = [(text.policy_name(p), p.id) for p in reversed(policies) if p.status != "serving"]
        newest = choices[0][1] if choices else None
        chart = figure(charts.rounds_over_time(points) if points else None)
        return [table, chart, gr.update(choices=choices, value=newest), text.promotions_table(promotions, policies, names)]

    def run_promote(request: gr.Request, policy_id: str | None, why: str) -> str:
        if not policy_id:
            raise UserError("No policy is chosen. Run a round to make one, then choose it here.")
        context.rounds.promote(policy_id, actor=actor(request), reason=why.strip() or None)
        return ""

    def run_back(request: gr.Request, why: str) -> str:
        context.rounds.rollback(actor=actor(request), reason=why.strip() or None)
        return ""

    part = Part(read, draw, [rows, over_time, chosen, history])
    on_click(promote, problem, run_promote, [chosen, reason], [reason], then=part)
    on_click(back, problem, run_back, [reason], [reason], then=part)
    return part
