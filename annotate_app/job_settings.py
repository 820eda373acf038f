"""How job directories are run: the table ``[jobs]`` of DATA/settings.toml. A command template, nothing more: whatever runs the
directory and returns when it has ended will do, on this machine, under Slurm, on a Ray cluster or on Kubernetes.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from annotate_app.settings_file import SETTINGS_FILE, read_table
from storage.contract.jobs import work_dir
from storage.errors import UserError

PLACES = ("job_dir", "job_name", "work_dir", "data_dir")


class JobCommands(BaseModel):
    """Commands as lists of words; ``{job_dir}``, ``{job_name}``, ``{work_dir}`` and ``{data_dir}`` stand for a job's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    command: tuple[str, ...] = Field(min_length=1, description="runs a job and returns when it has ended, not 0 on failure")
    cancel: tuple[str, ...] | None = Field(default=None, min_length=1, description="ends a job that runs elsewhere")

    def filled(self, command: Sequence[str], job_dir: Path) -> list[str]:
        """The command for one job. A word stays a word, whatever is in a path: no shell reads it."""
        values = {
            "job_dir": str(job_dir), "job_name": job_dir.name, "work_dir": str(work_dir(job_dir)),
            "data_dir": str(job_dir.parent.parent),
        }  # fmt: skip
        return [_filled(word, values) for word in command]


def read_job_commands(data_dir: Path) -> JobCommands | None:
    """The commands of a data directory, None where it says nothing of jobs; UserError naming what is wrong and where."""
    commands = read_table(data_dir, "jobs", JobCommands)
    if commands is not None:
        _check(data_dir / SETTINGS_FILE, commands)
    return commands


def _check(path: Path, commands: JobCommands) -> None:
    given = "".join(commands.command)
    if "{job_dir}" not in given and "{job_name}" not in given:
        raise UserError(f'{path}: jobs.command never says which job. Put "{{job_dir}}" where the job\'s directory belongs.')
    for name, words in (("command", commands.command), ("cancel", commands.cancel or ())):
        for word in words:
            unknown = [place for place in _places(word) if place not in PLACES]
            if unknown:
                known = ", ".join(f"{{{place}}}" for place in PLACES)
                raise UserError(f"{path}: jobs.{name} has {{{unknown[0]}}}, which is unknown. Known: {known}.")


def _places(word: str) -> list[str]:
    return [part.partition("}")[0] for part in word.split("{")[1:] if part.partition("}")[0].isidentifier()]


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word
