"""The console's Policies tab: all policies, and which one serves."""

from typing import Any

import gradio as gr

from annotate_app.context import AppContext
from annotate_app.pages import charts
from annotate_app.pages import console_text as text
from annotate_app.pages.console_parts import Part, actor, figure, on_click
from storage.errors import UserError

NUM_EVENTS = 12


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
