"""Where the learner computes, and with how many threads."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from storage.errors import UserError

SMALL_MODEL = 20_000_000  # parameters below which one thread beats several: the work per call is less than their hand-over


def choose_device(wanted: str) -> torch.device:
    """CUDA where there is one, unless ``wanted`` says otherwise; UserError where CUDA is asked for and missing."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda', but this machine offers no CUDA device to torch. Use device = 'auto' or 'cpu'.")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def choose_threads(num_parameters: int) -> None:
    """One thread for small models, torch's choice for large ones; OMP_NUM_THREADS decides where a person has set it."""
    if num_parameters < SMALL_MODEL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """bf16 matrix products on CUDA, float32 everywhere else; weights and sums stay float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
