"""Is there room on the disk? Asked by allocating, because quotas and limits do not show in what a file system calls free."""

import os
from pathlib import Path


def has_room(folder: Path, num_bytes: int) -> bool:
    """Whether a file of this size can be made in ``folder`` now; it is removed again."""
    probe = folder / f".room-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        return False
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, num_bytes)
            return True
        space = os.fstatvfs(descriptor)  # macOS
        return space.f_bavail * space.f_frsize >= num_bytes
    except OSError:
        return False
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)
