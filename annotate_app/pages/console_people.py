"""The console's Data and People tabs: files in and out, and who may sign in."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from annotate_app.auth import issue_signin_link
from annotate_app.context import AppContext
from annotate_app.pages import console_text as text
from annotate_app.pages.console_parts import Part, actor, check_admin, on_click
from storage.errors import UserError
from storage.exports import EXPORT_FORMATS
from storage.ids import new_id
from storage.imports import import_file
from storage.records import Annotator, Role, User


def build_data(context: AppContext, problem: gr.Markdown) -> None:
    """Exports are links to the API, which streams them; imports are uploads."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            gr.Markdown("## Export\n\nEverything that was judged, as a file; labelling goes on meanwhile.")
            formats = [(text.FORMAT_NAMES.get(name, name), name) for name in EXPORT_FORMATS]
            format_ = gr.Dropdown(formats, value="raw", label="Format", elem_id="export-format")
            container = gr.Radio(["jsonl", "parquet"], value="jsonl", label="File type")
            download = gr.Button("Download", variant="primary", link=_export_link("raw", "jsonl"), elem_id="download-export")
        with gr.Column(min_width=320):
            gr.Markdown("## Import\n\nJSONL, CSV or Parquet. A file with bad rows is refused whole and the rows are named.")
            kind = gr.Radio(["prompts", "judgments"], value="prompts", label="What is in the file")
            skip_bad = gr.Checkbox(False, label="Import the good rows of a file with bad ones")
            upload = gr.File(label="File", file_types=[".jsonl", ".json", ".csv", ".parquet"], type="filepath", height=140)
            take = gr.Button("Import", elem_id="import-file")
            imported = gr.Markdown(elem_id="imported")

    def link(name: str, suffix: str) -> Any:
        return gr.update(link=_export_link(name, suffix))

    def import_(request: gr.Request, what: str, lenient: bool, path: str | None) -> str:
        if not path:
            raise UserError("No file is chosen. Drop a JSONL, CSV or Parquet file first.")
        context.store.append_event(actor=actor(request), kind="data.imported", subject=Path(path).name, data={"what": what})
        return text.imported_text(what, import_file(context.store, what, Path(path), skip_bad=lenient))

    for choice in (format_, container):
        choice.change(link, [format_, container], download, show_progress="hidden", api_visibility="private")
    on_click(take, problem, import_, [kind, skip_bad, upload], [imported], meanwhile="Importing; labelling goes on.")


def _export_link(name: str, container: str) -> str:
    return f"/api/v1/exports/{name}?container={container}"


def build_people(context: AppContext, problem: gr.Markdown) -> Part:
    """Everybody who may sign in; make links, shut people out."""
    listed = gr.Markdown(elem_id="people", elem_classes="sheet")
    gr.Markdown("## Invite\n\nA link signs in once and lasts a week. Make another at any time. [Who did what](/console/audit)")
    with gr.Row(equal_height=True, elem_classes="fields"):
        name = gr.Textbox(label="Name", max_length=80, elem_id="invite-name")
        role = gr.Radio(["annotator", "researcher", "admin"], value="annotator", label="Role")
        invite = gr.Button("Make a sign-in link", variant="primary", scale=0, min_width=200, elem_id="invite")
    link = gr.Textbox(label="Sign-in link", buttons=["copy"], interactive=False, elem_id="invite-link")
    gr.Markdown("## Shut out\n\nAt once, in every browser. Judgments stay.")
    with gr.Row(equal_height=True, elem_classes="fields"):
        who = gr.Dropdown([], label="Person", elem_id="disable-choice")
        disable = gr.Button("Disable", variant="stop", scale=0, min_width=200, elem_id="disable")

    def draw(users: list[User]) -> list[Any]:
        rows = [(u.name, u.role, "disabled" if u.disabled else "active", f"{u.created_at:%Y-%m-%d}") for u in users]
        active = [(u.name, u.id) for u in users if not u.disabled]
        return [text.table(["name", "role", "state", "since"], rows), gr.update(choices=active, value=None)]

    def run_invite(request: gr.Request, called: str, as_role: Role) -> str:
        check_admin(request)
        user = user_named(context, called.strip(), as_role)
        url = request.request.url  # pyright: ignore[reportOptionalMemberAccess]
        base = context.security.public_url or f"{url.scheme}://{url.netloc}"
        return base + issue_signin_link(context.store, user, actor=actor(request))

    def run_disable(request: gr.Request, user_id: str | None) -> None:
        check_admin(request)
        if not user_id:
            raise UserError("Nobody is chosen. Choose who is to be shut out.")
        if user_id == actor(request):
            raise UserError("That is you. Ask another researcher, or use `nashloop users disable`.")
        context.store.append_event(actor=actor(request), kind="user.disabled", subject=user_id)

    part = Part(context.store.list_users, draw, [listed, who])
    on_click(invite, problem, run_invite, [name, role], [link], then=part)
    on_click(disable, problem, run_disable, [who], then=part)
    return part


def user_named(context: AppContext, name: str, role: Role) -> User:
    """The person of this name, added if new; UserError for another role than they have, or if they were shut out."""
    if not name:
        raise UserError("The name is empty. Say whom the link is for.")
    for user in context.store.list_users():
        if user.name == name and not user.disabled:
            if user.role != role:
                raise UserError(f"{name} is already {user.role}. Invite them with that role, or use another name.")
            return user
    now = datetime.now(UTC)
    annotator = context.store.get_annotator(name)
    if annotator is None:
        annotator = Annotator(id=new_id(), handle=name, kind="human", created_at=now)
        context.store.add_annotator(annotator)
    user = User(id=new_id(), name=name, role=role, annotator_id=annotator.id, created_at=now)
    context.store.add_user(user)
    return user
