"""DATA/settings.toml: what an operator sets once, a table for each concern with a model of its own; secrets stay outside."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from storage.errors import UserError

SETTINGS_FILE = "settings.toml"
TABLES = ("up", "security", "jobs")

T = TypeVar("T", bound=BaseModel)


def read_table(data_dir: Path, name: str, model: type[T]) -> T | None:
    """One table of a data directory's settings, None where it is not there; UserError naming what is wrong and where."""
    path = data_dir / SETTINGS_FILE
    if not path.exists():
        return None
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(tables.keys() - set(TABLES))
        if unknown:
            raise UserError(f"{path}: [{unknown[0]}] is unknown. Tables: {', '.join(f'[{table}]' for table in TABLES)}.")
        return model.model_validate(tables[name]) if name in tables else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as TOML: {error}. Correct it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((name, *map(str, first["loc"])))
        raise UserError(f"{path}: {key} = {first['input']!r} is refused: {first['msg']}. Correct or remove it.") from error
