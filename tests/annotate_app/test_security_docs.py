"""The published threat model names tests that exist, and says of roles what the code says."""

import ast
import re
from pathlib import Path

from annotate_app.auth import SCOPES
from annotate_app.security_settings import OidcSettings, SecuritySettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_the_threat_model_names_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    exist = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert len(named) > 35
    assert not named - exist


def test_every_threat_has_a_test():
    rows = [line for line in PAGE.split("## Threats")[1].split("## Privacy")[0].splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert not [row for row in rows[2:] if "`test_" not in row]


def test_settings_and_scopes_are_named_as_they_are():
    settings = PAGE.split("```toml")[1].split("```")[0]
    named = set(re.findall(r"^(\w+) =", settings, re.MULTILINE))
    known = set(SecuritySettings.model_fields) | set(OidcSettings.model_fields)
    assert named <= known
    assert set(SecuritySettings.model_fields) - {"oidc"} <= named
    assert all(f"`{scope}`" in PAGE for scope in SCOPES)
