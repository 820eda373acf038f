"""Is a policy's adapter still the one that was registered? Asked before it serves and by ``nashloop doctor``."""

from pathlib import Path

from annotate_app.candidates import ADAPTER_WEIGHTS
from storage.contract.sealing import read_manifest, sha256
from storage.errors import UserError


def check_adapter(data_dir: Path, *, number: int, path: str, sha256_kept: str | None) -> None:
    """UserError where files of the adapter's artifact are missing, changed or added, or its weights are not those registered."""
    adapter = data_dir / path
    remedy = "Restore artifacts/ from a backup, or let another policy serve."
    if not adapter.is_dir():
        raise UserError(f"The adapter of policy {number} is not at {adapter} any more. {remedy}")
    try:
        sealed = read_manifest(adapter.parent)["files"]
    except UserError as error:
        raise UserError(f"The adapter of policy {number} cannot be trusted: {error} {remedy}") from error
    added = [file for file in adapter.rglob("*") if file.is_file() and file.relative_to(adapter.parent).as_posix() not in sealed]
    if added:
        raise UserError(f"{added[0]} was added after the artifact was sealed, so policy {number} cannot be trusted. {remedy}")
    if sha256_kept is not None and sha256(adapter / ADAPTER_WEIGHTS) != sha256_kept:
        raise UserError(f"The weights in {adapter} are not those that were registered as policy {number}. {remedy}")
