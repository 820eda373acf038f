"""What a generation backend is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from storage.contract.settings import GenerationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sampled response. ``token_ids`` include the end token where one was sampled."""

    token_ids: tuple[int, ...]
    sum_logp: float  # nats under the policy itself, temperature 1, whatever the sampler's settings
    finish_reason: str  # stop | length


class GenerationBackend(Protocol):
    """Samples from a policy that is already loaded."""

    def __call__(
        self,
        model: Any,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_responses: int,
        settings: GenerationSettings,
        end_ids: Sequence[int],
        context: int,
        seed: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> list[list[Sample]]:
        """``num_responses`` samples per prompt (token ids), in prompt order; the same seed gives the same samples."""
        ...
