"""Options of ``nashloop up`` that a data directory keeps: the table ``[up]`` of its settings. The command line wins over it."""

from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field

from annotate_app.settings_file import read_table


class UpSettings(BaseModel):
    """As the options of the same names; what is left out is as the command line has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    model: str | None = None
    device: Literal["auto", "cpu", "cuda"] | None = None
    policy_server: str | None = None
    backup_every: float | None = Field(default=None, ge=0)
    keep_backups: int | None = Field(default=None, ge=1)
    allow_http: bool | None = None
    log_format: Literal["text", "json"] | None = None


def resolved(context: typer.Context, data_dir: Path) -> dict[str, Any]:
    """Every option of the running command: as given, else as the settings have it, else its default."""
    kept = (read_table(data_dir, "up", UpSettings) or UpSettings()).model_dump(exclude_none=True)
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    return {name: kept.get(name, value) if name not in given else value for name, value in context.params.items()}
