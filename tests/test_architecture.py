"""The dependency table of the three packages, as a test: storage knows nobody, processes meet at sealed directories."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# package -> what of our own code it may import besides itself. This table is the rule.
OWN_ALLOWED = {
    "storage": set(),
    "annotate_app": {"storage"},
    "online_learner": {"storage.contract", "storage.errors"},
}
# package -> libraries it must not import: they belong to another process.
FORBIDDEN = {
    "storage": {"torch", "transformers", "peft", "gradio", "fastapi"},
    "annotate_app": {"torch", "transformers", "peft"},
    "online_learner": {"duckdb", "gradio", "fastapi"},
}
POLICY_SERVER = ROOT / "online_learner" / "serving"  # a web server of its own


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) and n.module for a in n.names}


def is_within(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


@pytest.mark.parametrize("package", OWN_ALLOWED)
def test_imports_follow_the_table(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for module in imported_modules(path):
            where = f"{path.relative_to(ROOT)} imports {module}"
            own = is_within(module, set(OWN_ALLOWED))
            assert not own or is_within(module, OWN_ALLOWED[package] | {package}), f"{where}; see OWN_ALLOWED"
            forbidden = FORBIDDEN[package] - ({"fastapi"} if path.is_relative_to(POLICY_SERVER) else set())
            assert not is_within(module, forbidden), f"{where}; see FORBIDDEN"


def test_the_command_line_starts_without_torch_and_gradio():
    code = "import annotate_app.cli, sys; print([m for m in ('torch', 'gradio', 'transformers') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_app_starts_without_what_only_reports_and_providers_need():
    late = ["scipy.stats", "statsmodels", "pandas", "authlib"]
    code = f"import annotate_app.web, sys; print([m for m in {late} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_rule_table_is_read_without_torch():
    code = "import online_learner.update_rules, sys; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
