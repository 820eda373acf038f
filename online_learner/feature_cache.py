"""Features kept on disk: reading a text with a model is slow, and the same model reads the same tokens the same way.

One safetensors file per model and layer, named by a hash of the weights; its rows are named by a hash of the tokens.
Deleting the directory loses time and nothing else. Shapes: N rows, h width of the model.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEY_BYTES = 16


def default_cache() -> Path:
    """Where a person keeps files that can be made again: $NASHLOOP_CACHE, $XDG_CACHE_HOME/nashloop or ~/.cache/nashloop."""
    own = os.environ.get("NASHLOOP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nashloop"


def model_hash(model: nn.Module) -> str:
    """Hexadecimal digest of configuration and every weight: what a model computes, whatever its file is called."""
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}  # type: ignore[operator,union-attr]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def token_key(ids: Sequence[int], num_pooled: int) -> bytes:
    """Name of one row: the tokens read and how many of the last ones are averaged."""
    text = f"{num_pooled}:" + ",".join(map(str, ids))
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


class FeatureCache:
    """Rows of one model and layer: ``add`` keeps them in memory, ``write`` on disk where there is a directory."""

    def __init__(self, model: nn.Module, layer: int, directory: Path | None) -> None:
        """A file that cannot be read counts as empty: it is written anew."""
        self.rows: dict[bytes, Tensor] = {}
        self.path = directory / "features" / f"{model_hash(model)[:32]}-{layer}.safetensors" if directory else None
        self._read()

    def add(self, key: bytes, row: Tensor) -> None:
        """Remember one row (h,)."""
        self.rows[key] = row

    def write(self) -> None:
        """Replace the file in one step, keeping rows that another process added meanwhile."""
        if self.path is None or not self.rows:
            return
        own, self.rows = self.rows, {}
        self._read()
        self.rows |= own
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keys = torch.frombuffer(bytearray(b"".join(self.rows)), dtype=torch.uint8).view(-1, KEY_BYTES)
        aside = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        save_file({"keys": keys, "rows": torch.stack(list(self.rows.values()))}, aside)
        os.replace(aside, self.path)

    def _read(self) -> None:
        if self.path is None:
            return
        try:
            stored = load_file(self.path)
        except (OSError, SafetensorError):
            return
        keys = stored["keys"].numpy().tobytes()
        for i, row in enumerate(stored["rows"]):
            self.rows[keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]] = row
