"""The command line with the real app: `nashloop up` as a process, commands that talk to it, and the same ones without it."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def nashloop(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    command = [sys.executable, "-m", "annotate_app.cli", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def read(*arguments: str):
    """The JSON that a command prints, and nothing else."""
    ran = nashloop(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


class Up:
    """`nashloop up` in a process, with what it printed until it was ready."""

    def __init__(self, data: Path, port: int, *more: str) -> None:
        command = [sys.executable, "-m", "annotate_app.cli", "up", "--data", str(data), "--port", str(port), *more]
        self.url, self.printed = f"http://127.0.0.1:{port}", ""
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.printed:
            line = self.process.stdout.readline()
            assert line, f"nashloop up ended early:\n{self.printed}"
            self.printed += line

    @property
    def link(self) -> str | None:
        """The sign-in link in what was printed."""
        found = re.search(r"http\S+/sign-in\?token=\S+", self.printed)
        return found.group() if found else None

    def stop(self) -> int:
        """SIGTERM and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("app") / "data"


@pytest.fixture(scope="module")
def up(data):
    """The app, started for the first time; its first candidates job is done."""
    app = Up(data, free_port())
    deadline = time.monotonic() + 120
    while read("round", "list", "--data", str(data))["rounds"][0]["status"] == "running":
        assert time.monotonic() < deadline, "the first candidates took more than two minutes"
        time.sleep(1)
    yield app
    app.process.kill()
    app.process.wait()


def test_first_start_prints_a_link_that_signs_the_researcher_in(up):
    assert up.link is not None
    with httpx.Client(follow_redirects=True, trust_env=False, headers={"Accept": "text/html"}) as browser:
        assert browser.get(up.url + "/console").url.path == "/sign-in"
        page = browser.get(up.link)
        assert page.status_code == 200
        assert browser.post(up.link).status_code == 200
        assert browser.get(up.url + "/console").url.path.startswith("/console")


def test_answers_do_not_wait_for_delayed_acknowledgements(up):
    with httpx.Client(base_url=up.url, trust_env=False) as client:
        client.get("/healthz")
        seconds = sorted(client.get("/healthz").elapsed.total_seconds() for _ in range(21))
    assert seconds[10] < 0.03  # a listener with Nagle's algorithm on waits 40 ms each time


def test_server_json_tells_this_user_only_where_the_app_is(up, data):
    path = data / "server.json"
    running = json.loads(path.read_text())
    assert (running["url"], running["pid"]) == (up.url, up.process.pid)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_start_on_the_same_data_says_who_runs(up, data):
    ran = nashloop("up", "--data", str(data), "--port", str(free_port()))
    assert ran.returncode == 2
    assert f"Nashloop already runs on {data} at {up.url} (process {up.process.pid}" in ran.stderr


def test_another_data_directory_on_the_same_port_says_that_a_nashloop_has_it(up, tmp_path):
    ran = nashloop("up", "--data", str(tmp_path / "other"), "--port", up.url.rpartition(":")[2])
    assert ran.returncode == 2
    assert "is taken by another Nashloop" in ran.stderr
    assert not (tmp_path / "other").exists()


def test_the_first_job_made_candidates(up, data):
    (job,) = read("round", "list", "--data", str(data))["rounds"]
    assert (job["kind"], job["status"]) == ("generate", "done")
    assert read("round", "show", "1", "--data", str(data))["report"]["kind"] == "generate"


def test_a_report_becomes_a_file_or_the_reason_is_said(up, data, tmp_path):
    page = tmp_path / "report.html"
    assert nashloop("round", "show", "1", "--html", str(page), "--data", str(data)).returncode == 0
    assert "Generate 1" in page.read_text()
    ran = nashloop("round", "show", "1", "--html", str(tmp_path / "none" / "report.html"), "--data", str(data))
    assert ran.returncode == 2 and "Name a file in a folder that exists" in ran.stderr


def test_a_round_without_labels_is_refused_with_the_number_it_needs(up, data):
    ran = nashloop("round", "start", "--data", str(data))
    assert ran.returncode == 2
    assert "0 decided judgments; a round needs 20" in ran.stderr


def test_an_unknown_rule_is_refused_with_the_names_there_are(up, data):
    ran = nashloop("round", "start", "--set", "update.rule=ppo", "--data", str(data))
    assert ran.returncode == 2
    assert "'ppo'" in ran.stderr
    assert "onpo_ref" in ran.stderr


def test_policies_are_promoted_and_rolled_back_by_number(up, data):
    assert nashloop("round", "promote", "0", "--data", str(data)).stdout == "Policy 0 serves now.\n"
    unknown = nashloop("round", "promote", "7", "--data", str(data))
    assert (unknown.returncode, unknown.stderr) == (2, "error: There is no policy 7.\n")
    ran = nashloop("round", "rollback", "--data", str(data))
    assert ran.returncode == 2
    assert "there is no earlier policy to roll back to" in ran.stderr


def test_a_finished_job_can_be_watched_but_not_cancelled(up, data):
    assert read("round", "watch", "1", "--data", str(data))["status"] == "done"
    ran = nashloop("round", "cancel", "1", "--data", str(data))
    assert ran.returncode == 2
    assert "Job 1 is not running (it is done)" in ran.stderr


def test_people_are_added_invited_and_disabled(up, data):
    added = read("users", "add", "Ada", "--data", str(data))
    assert added["role"] == "annotator"
    assert added["link"].startswith(up.url + "/sign-in?token=")
    assert read("users", "invite", "Ada", "--data", str(data))["link"] != added["link"]
    assert nashloop("users", "disable", "Ada", "--data", str(data)).returncode == 0
    users = {user["name"]: user for user in read("users", "list", "--data", str(data))["users"]}
    assert (users["Ada"]["disabled"], users["researcher"]["disabled"]) == (True, False)


def test_an_unknown_person_is_refused_with_the_names_there_are(up, data):
    ran = nashloop("users", "invite", "Nobody", "--data", str(data))
    assert ran.returncode == 2
    assert "There is no user 'Nobody'. Known: researcher" in ran.stderr


def test_a_token_labels_through_the_api_until_it_is_revoked(up, data):
    secret = nashloop("tokens", "create", "robot", "--annotator", "robot", "--data", str(data)).stdout.strip()
    headers = {"Authorization": f"Bearer {secret}"}
    leased = httpx.post(up.url + "/api/v1/leases", json={"count": 1}, headers=headers, trust_env=False)
    assert leased.status_code == 200
    assert len(leased.json()["leases"]) == 1
    assert nashloop("tokens", "revoke", "robot", "--data", str(data)).returncode == 0
    assert httpx.post(up.url + "/api/v1/leases", json={"count": 1}, headers=headers, trust_env=False).status_code == 401


def test_doctor_finds_everything_whole(up, data):
    found = read("doctor", "--data", str(data))
    assert found["ok"] is True
    assert {"database", "rounds", "artifact 0001-generate", "base model", "disk"} <= {check["name"] for check in found["checks"]}


def test_a_backup_made_while_the_app_runs_opens_as_a_store(up, data, tmp_path):
    from storage.duckdb_store import open_store

    target = tmp_path / "copy.duckdb"
    assert read("backup", "--out", str(target), "--data", str(data))["path"] == str(target)
    store = open_store(target)
    assert [policy.number for policy in store.list_policies()] == [0]
    store.close()


def test_imported_judgments_come_out_again_as_trl_pairs(up, data, tmp_path):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    pairs.write_text(json.dumps({"prompt": "How do I boil an egg?", "chosen": "Seven minutes.", "rejected": "An hour."}) + "\n")
    assert nashloop("import", "judgments", str(pairs), "--data", str(data)).returncode == 0
    assert nashloop("export", "trl", "--out", str(out), "--data", str(data)).returncode == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["chosen"] for row in rows] == [[{"role": "assistant", "content": "Seven minutes."}]]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_bad_row_is_named_and_nothing_is_imported(up, data, tmp_path):
    before = read("doctor", "--data", str(data))["checks"][0]["detail"]
    pairs = tmp_path / "bad.jsonl"
    good = json.dumps({"prompt": "Why is the sky blue?", "chosen": "Scattering.", "rejected": "Paint."})
    pairs.write_text(good + "\n" + json.dumps({"prompt": "Why?", "chosen": 7, "rejected": "x"}) + "\n")
    ran = nashloop("import", "judgments", str(pairs), "--data", str(data))
    assert ran.returncode == 2
    assert "2" in ran.stderr
    assert read("doctor", "--data", str(data))["checks"][0]["detail"] == before


def test_an_unknown_export_format_is_refused_and_leaves_no_file(up, data, tmp_path):
    ran = nashloop("export", "xml", "--out", str(tmp_path / "x.jsonl"), "--data", str(data))
    assert ran.returncode == 2
    assert "'xml'" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_after_sigterm_nothing_is_left_running_and_commands_still_work(up, data):
    assert up.stop() == 0
    assert not (data / "server.json").exists()
    assert read("round", "list", "--data", str(data))["rounds"][0]["status"] == "done"
    secret = nashloop("tokens", "create", "late", "--scope", "research", "--data", str(data)).stdout.strip()
    assert secret.startswith("nl_")
    tokens = read("tokens", "list", "--data", str(data))["tokens"]
    assert [t["revoked"] for t in tokens if t["name"] == "command line"].count(False) == 1  # the one of this very command


def test_a_second_start_is_quick_and_prints_no_link_once_one_was_used(data):
    started = time.monotonic()
    app = Up(data, free_port())
    seconds = time.monotonic() - started
    assert app.stop() == 0
    assert app.link is None
    assert "nashloop users invite researcher" in app.printed
    assert seconds < 30  # 15 s on an idle machine; other tests may be running


def test_what_a_killed_app_left_behind_does_not_stop_the_next_command(data):
    app = Up(data, free_port())
    app.process.kill()
    app.process.wait()
    assert (data / "server.json").exists()
    assert read("round", "list", "--data", str(data))["rounds"][0]["status"] == "done"
