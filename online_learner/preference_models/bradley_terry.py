"""Bradley-Terry: one utility per response, so preferences are transitive. logit = u(a) - u(b)."""

from torch import Tensor

from online_learner.preference_models.base import PreferenceFamily


def compare_utilities(embedding_a: Tensor, embedding_b: Tensor) -> Tensor:
    """(..., 1), (..., 1) -> (...)."""
    return embedding_a[..., 0] - embedding_b[..., 0]


BRADLEY_TERRY = PreferenceFamily(
    name="bradley_terry",
    summary="Bradley-Terry: one utility per response; cannot represent cycles",
    width=1,
    compare=compare_utilities,
    # The heaviest leaves next to nothing: where features say nothing, held-out answers can choose a coin.
    ridges=((0.016,), (0.06,), (0.24,), (1.0,), (16.0,)),
    init_scale=(0.0,),
)
