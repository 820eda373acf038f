"""The console: what is waiting, a round from its settings to its report, policies, data and people.

Stock Gradio components and Plotly only (no gr.HTML, no native plots, no gr.State: DESIGN 6). Handlers stay thin: they read the
request, call one service method and render with console_text and charts. Who may open the page is decided by the guard.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base

from annotate_app.context import AppContext
from annotate_app.pages import console_text as text
from annotate_app.pages.browse_html import PLACES
from annotate_app.pages.console_people import build_data, build_people
from annotate_app.pages.console_results import build_policies
from annotate_app.pages.console_round import build_round

TICK_SECONDS = 3
# Overview, running job and reports are islands: empty columns that these scripts fill (static/island.js).
HEAD = "".join(f'<script type="module" src="/ui/{name}.js"></script>' for name in ("overview", "report", "tables"))
LINKS = " ".join(
    f"[{name}]({href})"
    for href, name in (("/", "Label pairs"), *PLACES[1:], ("/docs", "API"), ("/account", "Account"), ("/sign-out", "Sign out"))
)
CSS_FILE = Path(__file__).parent.parent / "static" / "console.css"


def build_console(context: AppContext) -> gr.Blocks:
    """The researchers' page; mounted at /console with ``console_look()``."""
    with gr.Blocks(title=f"{context.campaign} console", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {text.plain(context.campaign)}\n\n{LINKS}", elem_id="head")
        problem = gr.Markdown(visible=False, elem_id="problem")
        timer = gr.Timer(TICK_SECONDS)
        with gr.Tabs():
            with gr.Tab("Overview", id="overview"):
                gr.Column(elem_id="overview-host")
            with gr.Tab("Round", id="round"):
                live = build_round(context, problem)
            with gr.Tab("Reports", id="reports"):
                gr.Column(elem_id="report-host")
            for name, build in (("Policies", build_policies), ("People", build_people)):
                with gr.Tab(name, id=name.lower()) as tab:
                    build(context, problem).fill_on(tab.select)
            with gr.Tab("Data", id="data"):
                build_data(context, problem)
        for part in live:
            part.follow(blocks, timer)
    for event in blocks.fns.values():  # plain requests, for whichever app gets them: Gradio's queue lives in one process
        event.queue = False
    return blocks


def console_look() -> dict[str, Any]:
    """Theme and style sheet, in the look of the labelling page; system fonts, nothing fetched from elsewhere."""
    sans, mono = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"], ["ui-monospace", "monospace"]
    theme = Base(primary_hue="indigo", neutral_hue="gray", radius_size="md", font=sans, font_mono=mono)
    theme.set(
        body_background_fill="#f4f4f1",
        body_background_fill_dark="#131419",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1c1e26",
        border_color_primary="#deded8",
        border_color_primary_dark="#32354a",
        button_primary_background_fill="#3f4ec4",
        button_primary_background_fill_hover="#3341ab",
        button_primary_background_fill_dark="#a9b3ff",
        button_primary_background_fill_hover_dark="#bcc4ff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#14151a",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_text_color="#ffffff",
        body_text_color_subdued="#5a5d6a",
        body_text_color_subdued_dark="#b6bac8",
        block_info_text_color="#5a5d6a",
        block_info_text_color_dark="#b6bac8",
        button_cancel_text_color_dark="#ffffff",
    )
    return {"theme": theme, "css_paths": CSS_FILE, "head": HEAD}
