"""The console: what is waiting, a round from its settings to its report, policies, data and people.

Stock Gradio components and Plotly only (no gr.HTML, no native plots, no gr.State: DESIGN 6). Handlers stay thin: they read the
request, call one service method and render with console_text and charts. Who may open the page is decided by the guard.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from annotate_app.auth import issue_signin_link
from annotate_app.context import AppContext
from annotate_app.pages import charts
from annotate_app.pages import console_text as text
from storage.contract.settings import GenerationSettings, JobSettings, UpdateSettings, build_settings
from storage.errors import UserError
from storage.exports import EXPORT_FORMATS, write_export
from storage.ids import new_id
from storage.imports import import_file
from storage.records import Annotator, User

TICK_SECONDS = 4
NUM_CARDS = 6


def build_console(context: AppContext) -> gr.Blocks:
    """The researchers' page; mounted at /console."""
    with gr.Blocks(title=f"{context.campaign} console", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {text.plain(context.campaign)} console\n\n[Label pairs](/) · [API](/docs) · [Sign out](/sign-out)")
        problem = gr.Markdown(visible=False, elem_id="problem", elem_classes="problem")
        with gr.Tabs():
            with gr.Tab("Overview", id="overview"):
                refresh_overview, overview = _overview(context)
            with gr.Tab("Round", id="round"):
                refresh_round, round_view = _round(context, problem)
            with gr.Tab("Reports", id="reports") as reports_tab:
                refresh_reports, reports = _reports(context)
            with gr.Tab("Policies", id="policies") as policies_tab:
                refresh_policies, policies = _policies(context, problem)
            with gr.Tab("Data", id="data"):
                _data(context, problem)
            with gr.Tab("People", id="people") as people_tab:
                refresh_people, people = _people(context, problem)
        blocks.load(refresh_overview, outputs=overview)
        blocks.load(refresh_round, outputs=round_view)
        timer = gr.Timer(TICK_SECONDS)
        timer.tick(refresh_overview, outputs=overview, show_progress="hidden")
        timer.tick(refresh_round, outputs=round_view, show_progress="hidden")
        reports_tab.select(refresh_reports, outputs=reports)
        policies_tab.select(refresh_policies, outputs=policies)
        people_tab.select(refresh_people, outputs=people)
    return blocks


def _guarded(problem: gr.Markdown, act: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with one more output, the line that says what went wrong and what to do; other outputs stay."""
    # Gradio fills a parameter annotated gr.Request only when it sees the annotation on the function it is given,
    # so the closure takes it first and hands it on.

    def handle(request: gr.Request, *values: Any) -> Any:
        try:
            result = act(request, *values)
        except UserError as error:
            return gr.update(value=f"**{text.plain(error)}**", visible=True), gr.skip()
        return gr.update(visible=False), result

    return handle


def _actor(request: gr.Request) -> str:
    return str(request.username or "researcher")


# Overview


def _overview(context: AppContext) -> tuple[Callable[[], Any], list[Any]]:
    cards = []
    with gr.Row(elem_classes="cards"):
        for _ in range(NUM_CARDS):
            with gr.Column(min_width=150, elem_classes="card"):
                cards.append(gr.Markdown())
    over_time = gr.Plot(label="Judgments over time", elem_id="labels-over-time")
    annotators = gr.Markdown()

    def refresh() -> list[Any]:
        stats = context.store.stats()
        values = text.overview_cards(stats, context.store.serving_policy(), _since_last_round(context))
        rendered = [f"## {text.plain(number)}\n{label}\n\n*{remark}*" for number, label, remark in values]
        hours = [(hour, count) for hour, count in stats.get("judgments_per_hour", [])]
        who = _annotators_table(stats.get("by_annotator", []))
        return [*rendered, charts.labels_over_time(hours), who]

    return refresh, [*cards, over_time, annotators]


def _since_last_round(context: AppContext) -> int:
    done = [r for r in context.store.list_rounds() if r.kind == "round" and r.status == "done"]
    judgments = context.store.list_judgments()
    return sum(1 for j in judgments if not done or j.submitted_at > done[0].created_at)


def _annotators_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Nobody has judged a pair yet. Invite annotators under *People*, or [label a pair yourself](/)."
    columns = list(rows[0])
    return "### Annotators\n\n" + text.table(columns, [[row[c] for c in columns] for row in rows])


# Round: settings, start, live progress


def _round(context: AppContext, problem: gr.Markdown) -> tuple[Callable[[], Any], list[Any]]:
    default = JobSettings()
    update, generation = UpdateSettings.model_fields, GenerationSettings.model_fields
    rules = {rule["name"]: rule["summary"] for rule in context.rounds.rules()}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("### Start a round\n\nThe defaults are what we recommend; `auto` is picked from the data and reported.")
            rule = gr.Dropdown(list(rules), value=default.update.rule, label="Update rule")
            rule_says = gr.Markdown(text.plain(rules.get(default.update.rule, "")))
            rule.change(lambda name: text.plain(rules.get(name, "")), rule, rule_says)
            promote = gr.Radio(
                [("when the gate passes it", "gate"), ("by hand", "manual")], value="gate", label="Promote the new policy"
            )
            with gr.Accordion("All settings", open=False):
                fields = {
                    "update.step_size": gr.Textbox("auto", label="Step size", info=update["step_size"].description),
                    "update.kl_coef": gr.Textbox("auto", label="KL coefficient", info=update["kl_coef"].description),
                    "update.learning_rate": gr.Textbox("auto", label="Learning rate", info=update["learning_rate"].description),
                    "update.epochs": gr.Number(default.update.epochs, label="Epochs", info=update["epochs"].description, precision=0),
                    "update.pairs": gr.Dropdown(["all", "random"], value="all", label="Pairs", info=update["pairs"].description),
                    "generation.num_responses": gr.Number(
                        default.generation.num_responses,
                        label="Responses per prompt",
                        info=generation["num_responses"].description,
                        precision=0,
                    ),
                    "generation.max_new_tokens": gr.Number(
                        default.generation.max_new_tokens,
                        label="Longest response, tokens",
                        info=generation["max_new_tokens"].description,
                        precision=0,
                    ),
                    "seed": gr.Number(0, label="Seed", info="the same job twice gives the same adapter", precision=0),
                }
            start = gr.Button("Run round", variant="primary", elem_id="run-round")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### Now")
            progress = gr.Markdown(elem_id="progress")
            curves = gr.Plot(label="Metrics of the running job", elem_id="curves")
            log = gr.Markdown(elem_id="job-log")
            with gr.Row():
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel-round")
                resume = gr.Button("Resume", elem_id="resume-round")
    jobs = gr.Markdown()
    view = [progress, curves, log, jobs, start, cancel, resume]

    def refresh() -> list[Any]:
        rounds = context.store.list_rounds()
        if not rounds:
            return ["Nothing has run yet.", charts.metric_curves([]), "", text.jobs_table([]), _button(True), _button(False), _button(False)]
        now = context.rounds.progress(rounds[0].number)
        running = now.status == "running"
        stopped = now.status in ("failed", "interrupted", "cancelled")
        tail = context.rounds.log_tail(now.number) if stopped else ""
        shown_log = f"#### Last lines of its log\n\n```text\n{tail.replace('```', '')}\n```" if tail.strip() else ""
        return [
            text.progress_text(now),
            charts.metric_curves(now.metrics),
            shown_log,
            "### Jobs\n\n" + text.jobs_table(rounds),
            _button(not running),
            _button(running),
            _button(stopped),
        ]

    def run(request: gr.Request, promotion: str, rule_name: str, *values: Any) -> None:
        settings = build_settings(_nested({"update.rule": rule_name, **dict(zip(fields, values, strict=True))}), where="round settings")
        context.rounds.start(settings, actor=_actor(request), options={"promote": promotion})

    def current(act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda request: act(context.store.list_rounds()[0].number, actor=_actor(request))

    _wire(start, problem, run, [promote, rule, *fields.values()], refresh, view)
    _wire(cancel, problem, current(context.rounds.cancel), [], refresh, view)
    _wire(resume, problem, current(context.rounds.resume), [], refresh, view)
    return refresh, view


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted names to nested settings; numbers typed into text fields become numbers, everything else is validated later."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        if isinstance(value, str):
            value = value.strip()
            try:
                value = float(value)
            except ValueError:
                pass  # "auto" and names stay text; validation says what is allowed
        target[leaf] = int(value) if isinstance(value, float) and value.is_integer() else value
    return nested


def _button(enabled: bool) -> Any:
    return gr.update(interactive=enabled)


def _wire(
    button: gr.Button, problem: gr.Markdown, act: Callable[..., Any], inputs: list[Any], refresh: Callable[[], Any], view: list[Any]
) -> None:
    """Click: act, say what went wrong if anything did, then show the new state."""

    def handle(request: gr.Request, *values: Any) -> Any:
        try:
            act(request, *values)
        except UserError as error:
            return gr.update(value=f"**{text.plain(error)}**", visible=True)
        return gr.update(value="", visible=False)

    button.click(handle, inputs, problem, show_progress="hidden").then(refresh, outputs=view, show_progress="hidden")


# Reports


def _reports(context: AppContext) -> tuple[Callable[[], Any], list[Any]]:
    chosen = gr.Dropdown([], label="Round", elem_id="report-choice")
    summary = gr.Markdown("No round has finished yet.")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            evaluation = gr.Markdown()
            rates = gr.Plot(label="Expected win rates on held-out prompts")
        with gr.Column(min_width=320):
            preference = gr.Markdown()
            calibration = gr.Plot(label="Reliability of the preference model")
    examples = gr.Markdown()
    times = gr.Plot(label="Seconds per stage")
    body = [summary, evaluation, rates, preference, calibration, examples, times]

    def finished() -> list[tuple[str, int]]:
        rounds = [r for r in context.store.list_rounds() if r.kind == "round" and context.rounds.report(r.number)]
        return [(f"job {r.number}, {r.created_at:%Y-%m-%d %H:%M}", r.number) for r in rounds]

    def show(number: int | None) -> list[Any]:
        report = context.rounds.report(int(number)) if number else None
        if not report:
            return ["No round has finished yet.", "", None, "", None, "", None]
        measured = report.get("evaluation", {})
        names = {"win_rate_vs_parent": "vs parent", "length_controlled_vs_parent": "vs parent, equal length", "win_rate_vs_base": "vs base"}
        rows = [(label, measured[key]) for key, label in names.items() if measured.get(key)]
        bins = report.get("preference", {}).get("reliability", [])
        return [
            text.report_summary(report),
            text.evaluation_table(report),
            charts.intervals(rows) if rows else None,
            text.preference_table(report),
            charts.reliability(bins) if bins else None,
            text.examples_table(report),
            charts.seconds_by_stage(report.get("seconds", {})),
        ]

    def refresh() -> list[Any]:
        choices = finished()
        newest = choices[0][1] if choices else None
        return [gr.update(choices=choices, value=newest), *show(newest)]

    chosen.input(show, chosen, body)
    return refresh, [chosen, *body]


# Policies


def _policies(context: AppContext, problem: gr.Markdown) -> tuple[Callable[[], Any], list[Any]]:
    rows = gr.Dataframe(headers=text.POLICY_COLUMNS, interactive=False, label="Policies", elem_id="policies")
    over_time = gr.Plot(label="Win rate against the base policy, as the preference model expects it")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown([], label="Policy", elem_id="policy-choice")
        reason = gr.Textbox(label="Reason (kept in the audit log)", max_length=500)
        promote = gr.Button("Promote", variant="primary", elem_id="promote")
        back = gr.Button("Roll back to its parent", variant="stop", elem_id="rollback")
    view = [rows, over_time, chosen]

    def refresh() -> list[Any]:
        policies = context.store.list_policies()
        reports = {r.new_policy_id: context.rounds.report(r.number) or {} for r in context.store.list_rounds() if r.new_policy_id}
        points = [
            (text.policy_name(policy), value)
            for policy in policies
            if (value := reports.get(policy.id, {}).get("evaluation", {}).get("win_rate_vs_base"))
        ]
        candidates = [(text.policy_name(p), p.id) for p in reversed(policies) if p.status != "serving"]
        newest = candidates[0][1] if candidates else None
        return [text.policies_rows(policies, reports), charts.rounds_over_time(points), gr.update(choices=candidates, value=newest)]

    def run_promote(request: gr.Request, policy_id: str | None, why: str) -> None:
        if not policy_id:
            raise UserError("No policy is chosen. Run a round to make one, then choose it here.")
        context.rounds.promote(policy_id, actor=_actor(request), reason=why or None)

    def run_back(request: gr.Request, why: str) -> None:
        context.rounds.rollback(actor=_actor(request), reason=why or None)

    _wire(promote, problem, run_promote, [chosen, reason], refresh, view)
    _wire(back, problem, run_back, [reason], refresh, view)
    return refresh, view


# Data


def _data(context: AppContext, problem: gr.Markdown) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            gr.Markdown("### Export\n\nA file of everything that stands now; labelling goes on meanwhile.")
            format_ = gr.Dropdown(list(EXPORT_FORMATS), value="raw", label="Format", elem_id="export-format")
            container = gr.Radio(["jsonl", "parquet"], value="jsonl", label="File type")
            make = gr.Button("Make the file", variant="primary", elem_id="make-export")
            file = gr.DownloadButton("Download", visible=False, elem_id="download-export")
        with gr.Column(min_width=320):
            gr.Markdown("### Import\n\nJSONL, CSV or Parquet. A file with bad rows is refused whole and the rows are named.")
            kind = gr.Radio(["prompts", "judgments"], value="prompts", label="What is in the file")
            skip_bad = gr.Checkbox(False, label="Import the good rows of a file with bad ones")
            upload = gr.File(label="File", file_types=[".jsonl", ".json", ".csv", ".parquet"], type="filepath")
            take = gr.Button("Import", elem_id="import-file")
            imported = gr.Markdown()

    def export(request: gr.Request, name: str, suffix: str) -> Any:
        folder = context.data_dir / "exports"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}-{new_id()}.{suffix}"
        write_export(context.store, name, path)
        return gr.update(value=str(path), visible=True)

    def import_(request: gr.Request, what: str, lenient: bool, path: str | None) -> str:
        if not path:
            raise UserError("No file is chosen. Drop a JSONL, CSV or Parquet file first.")
        return text.plain(import_file(context.store, what, Path(path), skip_bad=lenient))

    make.click(_guarded(problem, export), [format_, container], [problem, file])
    take.click(_guarded(problem, import_), [kind, skip_bad, upload], [problem, imported])


# People


def _people(context: AppContext, problem: gr.Markdown) -> tuple[Callable[[], Any], list[Any]]:
    listed = gr.Markdown()
    gr.Markdown("### Invite\n\nThe link signs in once and can be made again at any time.")
    with gr.Row(equal_height=True):
        name = gr.Textbox(label="Name", max_length=80, elem_id="invite-name")
        role = gr.Radio(["annotator", "researcher"], value="annotator", label="Role")
        invite = gr.Button("Make a sign-in link", variant="primary", elem_id="invite")
    link = gr.Textbox(label="Sign-in link", buttons=["copy"], interactive=False, elem_id="invite-link")

    def refresh() -> list[Any]:
        users = context.store.list_users()
        rows = [(u.name, u.role, "disabled" if u.disabled else "active", f"{u.created_at:%Y-%m-%d}") for u in users]
        return [text.table(["name", "role", "state", "since"], rows)]

    def run(request: gr.Request, who: str, as_role: str) -> str:
        user = _user_named(context, who.strip(), as_role)
        return str(request.request.base_url).rstrip("/").removesuffix("/console") + issue_signin_link(context.store, user)

    invite.click(_guarded(problem, run), [name, role], [problem, link]).then(refresh, outputs=[listed])
    return refresh, [listed]


def _user_named(context: AppContext, name: str, role: str) -> User:
    if not name:
        raise UserError("The name is empty. Say whom the link is for.")
    for user in context.store.list_users():
        if user.name == name:
            if user.role != role:
                raise UserError(f"{name} is already {user.role}. Invite them with that role, or use another name.")
            return user
    annotator = Annotator(id=new_id(), handle=name, kind="human", created_at=datetime.now(UTC))
    context.store.add_annotator(annotator)
    user = User(id=new_id(), name=name, role=role, annotator_id=annotator.id, created_at=datetime.now(UTC))  # pyright: ignore[reportArgumentType]
    context.store.add_user(user)
    return user
