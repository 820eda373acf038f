"""A classifier on the policy's own hidden state: how much of a response was removed. Trained beside the policy, then thrown away.

V variants, L degrees, d hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from online_learner.degraded import NUM_DEGREES
from online_learner.device import mixed_precision
from online_learner.extras import ExtraInputs
from online_learner.logps import TokenisedResponse
from online_learner.policy.groups import Groups


class DegreeHead:
    """Linear in the last layer's state at the last token of the response, (d,) -> (L,); starts at zero, says nothing at first."""

    def __init__(self, model: Any) -> None:
        hidden = model.config.get_text_config().hidden_size
        self.linear = nn.Linear(hidden, NUM_DEGREES, device=next(model.parameters()).device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def inputs(self, model: Any, groups: Groups) -> ExtraInputs | None:
        """Logits (V, L) and degrees (V,) of the groups' variants; None where they have none."""
        degrees = groups.members_of.get("degraded")
        if degrees is None or not degrees.any():
            return None
        chosen = degrees > 0
        rows = groups.members[chosen].tolist()
        states = last_states(model, [groups.sequences[row] for row in rows])
        return ExtraInputs(degree_logits=self.linear(states), degrees=(degrees[chosen].long() - 1).to(states.device))


def last_states(model: Any, sequences: list[TokenisedResponse]) -> Tensor:
    """The last layer's state at each sequence's last token, (V, d), float32."""
    longest = max(sequence.length for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    attended = torch.zeros_like(ids)
    for v, sequence in enumerate(sequences):
        ids[v, : sequence.length] = torch.tensor([*sequence.prompt_ids, *sequence.response_ids])
        attended[v, : sequence.length] = 1
    device = next(model.parameters()).device
    with mixed_precision(device):
        found = model(
            input_ids=ids.to(device), attention_mask=attended.to(device), use_cache=False, output_hidden_states=True
        ).hidden_states[-1]
    return found[torch.arange(len(ids)), (attended.sum(-1) - 1).to(device)].float()
