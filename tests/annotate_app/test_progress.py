import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from annotate_app.progress import ProgressReader
from storage.contract.jobs import artifact_dir, work_dir
from storage.records import Round

ROUND = Round(
    id="r",
    number=7,
    kind="round",
    parent_policy_id="p",
    new_policy_id="q",
    job_dir="jobs/0007-round",
    settings={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
START = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def job(tmp_path):
    directory = tmp_path / "jobs" / "0007-round"
    work_dir(directory).mkdir(parents=True)
    return directory


def line(seconds: float, stage: str, index: int, fraction: float, **metrics: float) -> str:
    at = datetime.fromtimestamp(START + seconds, UTC).isoformat()
    entry = {"at": at, "stage": stage, "stage_index": index, "num_stages": 7, "fraction": fraction, "message": stage}
    return json.dumps({**entry, "metrics": metrics or None}) + "\n"


def write(job, text: str, *, started: float = 0.0) -> None:
    with (work_dir(job) / "progress.jsonl").open("a") as file:
        file.write(text)
    (work_dir(job) / "process.json").write_text(json.dumps({"started_at": START + started}))


def reader_at(seconds: float) -> ProgressReader:
    return ProgressReader(clock=lambda: START + seconds)


def test_a_job_that_has_said_nothing_yet_is_starting(job):
    progress = reader_at(0).read(job, ROUND)
    assert (progress.stage, progress.fraction, progress.num_stages, progress.message) == (None, 0.0, 7, "starting")
    assert progress.remaining_s is None


def test_remaining_time_is_extrapolated_from_the_pace_so_far(job):
    write(job, line(1, "labels", 1, 0.0) + line(20, "update", 4, 0.25, loss=1.5))
    progress = reader_at(20).read(job, ROUND)
    assert (progress.stage, progress.stage_index, progress.elapsed_s) == ("update", 4, 20.0)
    assert progress.remaining_s == pytest.approx(60.0)  # a quarter took 20 s, three quarters are left
    assert progress.metrics == [{"at": progress.metrics[0]["at"], "stage": "update", "loss": 1.5}]


def test_a_resumed_job_does_not_count_finished_stages_into_its_pace(job):
    write(job, line(10, "update", 4, 0.5))
    write(job, line(1000, "evaluation", 5, 0.5) + line(1010, "evaluation", 5, 0.6), started=1000)
    progress = reader_at(1010).read(job, ROUND)
    assert progress.elapsed_s == 10.0
    assert progress.remaining_s == pytest.approx(40.0)  # a tenth took 10 s, four tenths are left


def test_a_line_is_read_once_it_is_whole_and_a_broken_one_is_skipped(job):
    reader = reader_at(5)
    whole = line(1, "labels", 1, 0.1, a=1.0)
    write(job, whole[:20])
    assert reader.read(job, ROUND).stage is None
    write(job, whole[20:])
    assert reader.read(job, ROUND).stage == "labels"
    write(job, '{"at": "2026-01' + line(2, "labels", 1, 0.2) + line(3, "anchors", 3, 0.3, b=2.0))
    progress = reader.read(job, ROUND)
    assert (progress.stage, len(progress.metrics)) == ("anchors", 2)
    assert len(reader.read(job, ROUND).metrics) == 2  # nothing is read twice


def test_a_finished_job_whose_working_directory_is_gone_shows_what_its_artifact_kept(job):
    artifact_dir(job).mkdir(parents=True)
    (artifact_dir(job) / "metrics.jsonl").write_text('{"update/loss": 0.5}\n')
    work_dir(job).rmdir()
    progress = reader_at(5).read(job, replace(ROUND, status="done", message="Promoted."))
    assert (progress.fraction, progress.stage_index, progress.message) == (1.0, 7, "Promoted.")
    assert progress.metrics == [{"update/loss": 0.5}]
