"""The one place to add a generation backend: a file beside this one and a line here."""

from online_learner.generation.base import GenerationBackend
from online_learner.generation.transformers_backend import sample_with_transformers

GENERATION_BACKENDS: dict[str, GenerationBackend] = {"transformers": sample_with_transformers}
