"""``python -m online_learner average``: one adapter whose change of every weight is the mean of several adapters' changes.

On cyclic preferences the policies of successive rounds turn around the Nash policy; the mean of the last few lies nearer to it
than each of them, and is one adapter like any other: it can be served, sampled from and compared. The factors are put side by
side, so the mean is exact and its rank is the sum of theirs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from online_learner.policy.adapters import CONFIG, WEIGHTS
from storage.errors import UserError

_A, _B = ".lora_A.weight", ".lora_B.weight"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``average``."""
    parser.description = "Write one LoRA adapter that is the mean of several, such as those of the last rounds."
    parser.add_argument("adapters", nargs="+", type=Path, metavar="DIR", help="adapter directories, artifacts/NNNN-round/adapter")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the mean is written")


def run(args: argparse.Namespace) -> int:
    """Write and name the adapter."""
    average_adapters(args.adapters, args.out)
    print(args.out)
    return 0


def average_adapters(directories: Sequence[Path], out: Path) -> None:
    """Write the mean of LoRA adapters on one base model into ``out``; UserError where they do not fit together or out exists."""
    if out.exists():
        raise UserError(f"{out} exists already. Name a new directory with --out.")
    if len(directories) < 2:
        raise UserError(f"One adapter ({directories[0]}) is its own mean. Name two or more.")
    read = [_read(directory) for directory in directories]
    (first, weights), rank = read[0], sum(config["r"] for config, _ in read)
    for directory, (config, own) in zip(directories, read, strict=True):
        different = sorted({name.removesuffix(_A).removesuffix(_B) for name in own.keys() ^ weights.keys()})
        if different or config["base_model_name_or_path"] != first["base_model_name_or_path"]:
            why = (
                f"layer {different[0]} is in only one of them"
                if different
                else f"its base is {config['base_model_name_or_path']}"
            )
            raise UserError(f"{directory} does not fit {directories[0]}: {why}. Average adapters of one campaign.")
    mean = {name: _beside(name, read) for name in weights}
    out.mkdir(parents=True)
    save_file(mean, out / WEIGHTS, metadata={"format": "pt"})
    config = first | {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


def _beside(name: str, read: Sequence[tuple[dict, dict[str, Tensor]]]) -> Tensor:
    """A's below each other, (r, in); B's beside each other with their scale over the number of adapters, (out, r)."""
    if name.endswith(_A):
        return torch.cat([weights[name] for _, weights in read]).contiguous()
    scaled = [weights[name] * (config["lora_alpha"] / config["r"] / len(read)) for config, weights in read]
    return torch.cat(scaled, dim=1).contiguous()


def _read(directory: Path) -> tuple[dict, dict[str, Tensor]]:
    try:
        config, weights = json.loads((directory / CONFIG).read_text()), load_file(directory / WEIGHTS)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} is no LoRA adapter ({error}). Name artifacts/NNNN-round/adapter.") from error
    other = sorted(name for name in weights if not name.endswith((_A, _B)))
    if other or config.get("use_rslora") or config.get("use_dora") or config.get("rank_pattern"):
        raise UserError(f"{directory} is no plain LoRA adapter of one rank. Average adapters that rounds made.")
    return config, weights
