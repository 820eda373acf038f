"""The files of docs/deploy against what they talk about: metrics, options, routes and settings that exist."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from annotate_app.cli import app as command_line
from annotate_app.job_settings import JobCommands, read_job_commands
from annotate_app.security_settings import read_security
from annotate_app.settings_file import read_table
from annotate_app.up_settings import UpSettings
from storage.contract.settings import JobSettings
from storage.records import Round
from tests.storage.builders import START

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.fixture
def metric_names(app, context, client):
    """Every metric that an app with a job and some labels tells."""
    context.store.append_event(actor="test", kind="policy.promoted", subject="policy0")
    context.store.add_round(
        Round(
            id="r1", number=1, kind="round", parent_policy_id="policy0", new_policy_id=None, job_dir="jobs/0001-round",
            settings=JobSettings().model_dump(mode="json"), created_at=START,
        )
    )  # fmt: skip
    lease = client.post("/api/v1/leases").json()["leases"][0]
    client.post("/api/v1/judgments", json={"lease_id": lease["lease_id"], "verdict": "a"})
    text = TestClient(app, client=("127.0.0.1", 5)).get("/metrics").text
    assert 'nashloop_jobs{kind="round",status="running"} 1' in text.splitlines()
    assert "nashloop_serving_policy 0" in text.splitlines()
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    histograms = set(re.findall(r"^# TYPE (\S+) histogram", text, re.MULTILINE))
    return families | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def test_every_query_of_the_dashboard_is_about_a_metric_that_exists(metric_names):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"nashloop_\w+", query)}
    assert asked - {"nashloop_live_prompts_up"} <= metric_names  # that one is there while live prompts are on
    assert len(queries) > 10


def test_live_prompts_are_told_while_they_are_on(context):
    from annotate_app import metrics

    class Answering:
        problem = None

    told = list(metrics.loop_lines(replace(context, live=Answering())))  # pyright: ignore[reportArgumentType]
    assert "nashloop_live_prompts_up 1" in told


def test_the_example_settings_are_accepted_line_by_line(tmp_path):
    text = (DEPLOY / "settings.toml").read_text()
    (tmp_path / "settings.toml").write_text(text)
    assert read_table(tmp_path, "up", UpSettings) and read_security(tmp_path).public_url and read_job_commands(tmp_path) is None
    optional = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    (tmp_path / "settings.toml").write_text(optional)
    assert isinstance(read_job_commands(tmp_path), JobCommands) and read_security(tmp_path).oidc is not None


def options_of_up() -> set[str]:
    from typer.main import get_command

    up = get_command(command_line).commands["up"]  # pyright: ignore[reportAttributeAccessIssue]
    return {option for parameter in up.params for option in parameter.opts}


def test_services_start_the_app_with_options_that_it_has():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    deployment = next(d for d in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()) if d["kind"] == "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    unit = (DEPLOY / "nashloop.service").read_text()
    docker = json.loads(re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[-1])
    started = re.findall(r"^ExecStart=\S+ (.*)$", unit, re.MULTILINE)[0].split()
    for words in (compose["services"]["app"]["command"], container["args"], started, docker):
        assert words[0] == "up"
        assert {word for word in words if word.startswith("--")} <= options_of_up()
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            name = volume.split(":")[0]
            assert name.startswith("./") or name in compose["volumes"]


def test_probes_ask_routes_that_answer_without_signing_in(visitor):
    text = (DEPLOY / "kubernetes.yaml").read_text() + (DEPLOY / "Dockerfile").read_text()
    probes = set(re.findall(r"/\w+z\b", text))
    assert probes == {"/healthz", "/readyz"}
    assert all(visitor.get(path).status_code == 200 for path in probes)


def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    unit = tmp_path / "nashloop.service"
    text = (DEPLOY / "nashloop.service").read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "nashloop.service" not in said.stderr, said.stderr
