"""Jobs that run elsewhere: command templates, their mistakes, and the examples of docs/deploy as far as they run here."""

import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from annotate_app.job_settings import JobCommands, read_job_commands
from annotate_app.launcher import JobExit, Launcher, log_tail
from storage.contract.jobs import work_dir
from storage.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "docs" / "deploy" / "jobs"


def settings(tmp_path: Path, text: str) -> JobCommands | None:
    (tmp_path / "settings.toml").write_text(text)
    return read_job_commands(tmp_path)


def test_without_a_table_jobs_run_here(tmp_path):
    assert read_job_commands(tmp_path) is None
    assert settings(tmp_path, "[security]\nsession_days = 3\n") is None


def test_places_are_filled_word_by_word(tmp_path):
    commands = settings(tmp_path, '[jobs]\ncommand = ["run", "--log={work_dir}/x.log", "{job_name}", "{job_dir}"]')
    assert commands is not None
    job = tmp_path / "jobs" / "0007-round; rm -rf x"
    work = str(work_dir(job))
    assert commands.filled(commands.command, job) == ["run", f"--log={work}/x.log", "0007-round; rm -rf x", str(job)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[jobs]\ncommand = ["run"]', "never says which job"),
        ('[jobs]\ncommand = ["run", "{job_dir}", "{jobdir}"]', r"\{jobdir\}, which is unknown"),
        ('[jobs]\ncommand = "run {job_dir}"', r"jobs.command = 'run \{job_dir\}' is refused"),
        ('[jobs]\ncommand = []', "jobs.command"),
        ('[jobs]\ncommand = ["a", "{job_dir}"]\nqueue = "gpu"', "jobs.queue"),
        ("[jobs", "not readable as TOML"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_the_value(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        settings(tmp_path, text)


def test_a_job_runs_by_the_template_and_its_cancel_command_is_run(tmp_path):
    program = "import sys, time; print('running', sys.argv[1:], flush=True); time.sleep(60)"
    stop = "import sys; print('told to stop', sys.argv[1])"
    commands = JobCommands(
        command=(sys.executable, "-c", program, "{job_dir}", "--as", "{job_name}"),
        cancel=(sys.executable, "-c", stop, "nashloop-{job_name}"),
    )
    exits: list[JobExit] = []
    launcher = Launcher(commands, exits.append, poll_s=0.02)
    job = tmp_path / "jobs" / "0001-round"
    launcher.start(job, accelerator="cpu")
    wait_for(lambda: f"running ['{job}', '--as', '0001-round']" in log_tail(job))
    launcher.cancel(job)
    assert launcher.wait(job, 10) and exits[0].cancelled
    wait_for(lambda: "told to stop nashloop-0001-round" in log_tail(job))
    launcher.close(stop_jobs=True)


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


# The examples


def test_the_slurm_script_runs_a_job_directory(tmp_path):
    """As sbatch would run it: a shell script with the job's directory as its argument."""
    learner = tmp_path / "python"
    learner.write_text('#!/bin/sh\necho "$@"\n')
    learner.chmod(0o755)
    script = EXAMPLES / "slurm.sh"
    ran = subprocess.run(
        [script, "/data/jobs/0001-round"], capture_output=True, text=True, check=True, env={"NASHLOOP_PYTHON": str(learner)}
    )
    assert ran.stdout.split() == ["-m", "online_learner", "run", "/data/jobs/0001-round"]
    if shutil.which("sbatch"):
        subprocess.run(["sbatch", "--test-only", script, "/data/jobs/0001-round"], check=True)


def test_the_kubernetes_job_is_a_manifest_that_names_the_job(tmp_path):
    yaml = pytest.importorskip("yaml")
    text = (EXAMPLES / "kubernetes-job.yaml").read_text().replace("JOB_NAME", "nashloop-0001-round").replace("JOB_DIR", "/data/x")
    job = yaml.safe_load(text)
    assert (job["kind"], job["metadata"]["name"]) == ("Job", "nashloop-0001-round")
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "online_learner", "run", "/data/x"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in job["spec"]["template"]["spec"]["volumes"]}
    cluster = shutil.which("kubectl") and subprocess.run(["kubectl", "version"], capture_output=True, check=False).returncode == 0
    if cluster:
        asked = {**os.environ, "NASHLOOP_KUBECTL_FLAGS": "--dry-run=client"}
        subprocess.run([EXAMPLES / "kubernetes.sh", "run", "/data/x", "0001-round"], check=True, env=asked)


def test_shell_examples_are_shell(tmp_path):
    for script in EXAMPLES.glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        said = [line.removeprefix("#   ") for line in script.read_text().splitlines() if line.startswith("#   ")]
        (tmp_path / "settings.toml").write_text("\n".join(said))
        assert read_job_commands(tmp_path) is not None  # what its comment says to write is accepted


@pytest.mark.slow
def test_a_job_runs_on_a_ray_cluster(tmp_path):
    """A cluster of one machine, started here: a job that works, and one that fails, told apart by the exit code."""
    ray = os.environ.get("NASHLOOP_RAY") or shutil.which("ray")
    if ray is None:
        pytest.skip("ray is not installed (pip install 'ray[default]', or name its program in NASHLOOP_RAY)")
    (tmp_path / "settings.toml").write_text((EXAMPLES / "ray.toml").read_text())
    template = read_job_commands(tmp_path)
    assert template is not None
    assert tomllib.loads((EXAMPLES / "ray.toml").read_text())["jobs"]["cancel"] == list(template.cancel or ())
    learner = tmp_path / "learner.py"
    learner.write_text("import sys, pathlib\npath = pathlib.Path(sys.argv[1]) / 'input'\nprint(path.read_text())\n")
    words = [ray, *template.command[1 : template.command.index("--") + 1], sys.executable, str(learner), "{job_dir}"]
    started = [ray, "start", "--head", "--num-cpus=1", "--port=0", "--dashboard-port=28265", "--include-dashboard=true"]
    environment = {**os.environ, "RAY_ADDRESS": "http://127.0.0.1:28265", "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(started, check=True, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}, capture_output=True)
    exits: list[JobExit] = []
    launcher = Launcher(JobCommands(command=tuple(words)), exits.append, env=environment)
    try:
        for name in ("0001-round", "0002-round"):
            job = tmp_path / "jobs" / name
            job.mkdir(parents=True)
            if name == "0001-round":
                (job / "input").write_text("the sealed input was read")
            launcher.start(job, accelerator="cpu")
            assert launcher.wait(job, 180)
        assert "the sealed input was read" in log_tail(tmp_path / "jobs" / "0001-round", 40)
        assert exits[0].code == 0 and exits[1].code not in (0, None)
    finally:
        launcher.close(stop_jobs=True)
        subprocess.run([ray, "stop", "--force"], capture_output=True, check=False)
