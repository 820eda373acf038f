"""Random streams by name: one seed for a job, a stream of its own for each stage, so that one more draw shifts no other stage."""

import hashlib

import torch


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed that depends on both, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def stream(seed: int, name: str) -> torch.Generator:
    """A CPU generator for that stream."""
    return torch.Generator().manual_seed(stream_seed(seed, name))
