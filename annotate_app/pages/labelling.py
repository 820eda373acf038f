"""The labelling page: a Gradio shell around an island. The island (static/labelling.js) attaches a shadow root to an empty
column and talks to /api/v1; the shell has no events, no state and no HTML component, so Gradio does nothing while people label.
"""

import gradio as gr

from annotate_app.context import AppContext

HEAD = '<script type="module" src="/ui/labelling.js"></script><link rel="modulepreload" href="/ui/sender.js">'
# The island covers the window; Gradio's paddings and page width stay underneath.
CSS = "#island-host{position:fixed!important;inset:0;z-index:10;overflow:hidden;padding:0!important;gap:0!important}"


def build_labelling(context: AppContext) -> gr.Blocks:
    """The annotators' page; mounted at /."""
    with gr.Blocks(title=context.campaign, analytics_enabled=False) as blocks:
        gr.Column(elem_id="island-host")
    return blocks
