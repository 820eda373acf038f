"""axe-core on a page, open shadow roots and dialogs included: no violation, and no contrast that axe could not tell."""

from pathlib import Path

import axe_playwright_python

SCRIPT = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Contrasts that axe leaves undecided and we do not: one character ("A", "✕") in colours that longer text beside it has, too;
# text that is partly scrolled out of its box, and formulas taller than their line, in the colours of the text around them.
EXPLAINED = {"shortTextContent", "nonBmp", "elmPartiallyObscured", "elmPartiallyObscuring"}


def assert_accessible(page, *, within: str | None = None, without: tuple[str, ...] = ()) -> None:
    """Fails with what axe says, one line each: rule, element, remedy. ``without``: rules that belong to Gradio's own frame."""
    page.evaluate(SCRIPT)  # through the debugger, so the page's content security policy stays as it is
    found = page.evaluate(
        """async ([within, without]) => {
            const rules = Object.fromEntries(without.map((rule) => [rule, { enabled: false }]));
            return axe.run(within ?? document, { rules, resultTypes: ["violations", "incomplete"] });
        }""",
        [within, list(without)],
    )
    undecided = [result for result in found["incomplete"] if result["id"] == "color-contrast"]
    wrong = [
        _line(result, node) for result in found["violations"] + undecided for node in result["nodes"] if not _explained(node)
    ]
    assert not wrong, "\n".join(wrong)


def _explained(node) -> bool:
    reasons = {(check["data"] or {}).get("messageKey") for check in node["any"] if check["id"] == "color-contrast"}
    in_picture = node["html"].startswith("<text ")  # axe takes the picture itself for a background that hides its text
    return bool(reasons) and reasons <= EXPLAINED | ({"imgNode"} if in_picture else set())


def _line(result, node) -> str:
    told = (node.get("failureSummary") or "").replace("\n", " ")
    return f"{result['id']} ({result['impact']}): {node['html'][:160]} — {told[:300]}"
