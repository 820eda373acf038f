"""What the console's tabs have in common: a part that can be refreshed, and buttons that say what went wrong.

A part reads plain data and draws it. Once drawn, a page holds the part's mark; a tick that reads the same again draws nothing,
so that charts keep their zoom and idle pages cost little. The mark lives in the page, not in a gr.State (one would open a
stream per tab).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from annotate_app.auth import PRINCIPAL
from annotate_app.pages import console_text as text
from storage.errors import UserError


@dataclass(frozen=True)
class Part:
    """Outputs and how they are filled: ``draw(read())`` gives one value per output."""

    read: Callable[[], Any]
    draw: Callable[[Any], list[Any]]
    outputs: list[Any]

    def refresh(self) -> Any:
        """New values of all outputs; Gradio wants the bare value where there is one."""
        return _bare(self.draw(self.read()))

    def follow(self, blocks: gr.Blocks, timer: gr.Timer) -> None:
        """Fill when the page loads, and on each tick on which something has changed."""
        seen = gr.Textbox(visible="hidden", container=False)

        def update(seen_mark: str) -> list[Any]:
            data = self.read()
            mark = hashlib.sha256(repr(data).encode()).hexdigest()
            return [gr.skip()] * (len(self.outputs) + 1) if mark == seen_mark else [mark, *self.draw(data)]

        outputs = [seen, *self.outputs]
        blocks.load(update, seen, outputs, show_progress="hidden", api_visibility="private")
        timer.tick(update, seen, outputs, show_progress="hidden", api_visibility="private")

    def fill_on(self, event: Callable[..., Any]) -> None:
        """Fill when a tab is opened (``tab.select``) or after an action (``click.then``)."""
        event(self.refresh, outputs=self.outputs, show_progress="hidden", api_visibility="private")


def on_click(
    button: gr.Button,
    problem: gr.Markdown,
    act: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any] | None = None,
    then: Part | None = None,
    meanwhile: str | None = None,
) -> None:
    """Click: ``act(request, *inputs)`` fills ``outputs``, or ``problem`` says what to do; then refresh a part.

    ``meanwhile`` stands in the first output while it takes long.
    """
    filled = outputs or []

    # Gradio hands in the request only where it sees the annotation, so the closure takes it first.
    def handle(request: gr.Request, *values: Any) -> Any:
        try:
            result = act(request, *values)
        except UserError as error:
            shown = gr.update(value=f"**{text.plain(error)}**", visible=True)
            return _bare([shown, *["" if meanwhile and not i else gr.skip() for i in range(len(filled))]])
        cleared = gr.update(value="", visible=False)
        return _bare([cleared, *([] if not filled else [result] if len(filled) == 1 else result)])

    trigger = button.click
    if meanwhile:
        said = trigger(lambda: meanwhile, outputs=filled[0], show_progress="hidden", api_visibility="private")
        trigger = said.then
    event = trigger(handle, inputs, [problem, *filled], show_progress="hidden", api_visibility="private")
    if then is not None:
        then.fill_on(event.then)


def actor(request: gr.Request) -> str:
    """Who clicked, for the audit log: the id that the guard found."""
    return str(request.username)


def check_admin(request: gr.Request) -> None:
    """UserError unless the guard found an admin: who may come in is not for researchers to say."""
    who = request.request.scope.get(PRINCIPAL)  # pyright: ignore[reportOptionalMemberAccess]
    if who is None or not who.may("admin"):
        raise UserError("Only an admin invites people and shuts them out. Ask one (the first user is one).")


def _bare(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def enabled(is_enabled: bool) -> Any:
    """An update of a button."""
    return gr.update(interactive=is_enabled)


def figure(value: Any) -> Any:
    """An update of a plot; one with nothing to draw takes no room."""
    return gr.update(value=value, visible=value is not None)
