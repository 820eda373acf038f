"""The console's Reports tab: an empty column that static/report.js fills with a report, as the exported file has it."""

import gradio as gr

REPORT_HEAD = '<script type="module" src="/ui/report.js"></script>'


def build_reports() -> None:
    """The island's place; it has no Gradio events."""
    gr.Column(elem_id="report-host")
