"""Sealed directories: how storage, the app and the learner hand work to each other.

A directory is complete when ``manifest.json`` is in it. It is built aside, every file is hashed and flushed, the manifest
is written last, and one rename publishes it. It never changes afterwards.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from storage.errors import UserError

MANIFEST = "manifest.json"


def seal_dir(build_dir: Path, final_dir: Path, **facts: Any) -> None:
    """Hash every file of ``build_dir``, write its manifest and move it to ``final_dir`` in one step.

    ``facts`` (JSON values: kind, number, seeds, versions) are kept beside the hashes. Raises UserError if ``final_dir``
    exists. A reader sees the whole directory or none of it, after a crash too: files are flushed before the rename.
    """
    if final_dir.exists():
        raise UserError(f"{final_dir} already exists and sealed directories never change. Use the next number.")
    files = {}
    for path in sorted(p for p in build_dir.rglob("*") if p.is_file() and p.name != MANIFEST):
        files[path.relative_to(build_dir).as_posix()] = sha256(path)
        flush(path)
    manifest = build_dir / MANIFEST
    manifest.write_text(json.dumps({"files": files, **facts}, indent=2, sort_keys=True))
    flush(manifest)
    os.replace(build_dir, final_dir)
    flush(final_dir.parent)


def read_manifest(sealed_dir: Path, *, check: bool = True) -> dict[str, Any]:
    """The manifest of a sealed directory, after checking that every file is still the one that was sealed."""
    path = sealed_dir / MANIFEST
    if not path.exists():
        raise UserError(f"{sealed_dir} is not a finished directory (it has no {MANIFEST}). Start the job again.")
    try:
        manifest = json.loads(path.read_text())
        sealed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged. Restore it from a backup, or start a new job instead.") from error
    for name, sealed_hash in sealed.items() if check else ():
        file = sealed_dir / name
        if not file.exists() or sha256(file) != sealed_hash:
            raise UserError(f"{file} is missing or was changed after it was sealed. Start a new job instead.")
    return manifest


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Put a file on stable storage, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
