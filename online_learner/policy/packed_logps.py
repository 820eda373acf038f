"""Log-probabilities from packed responses, without logits of more than some tokens at a time.

Shapes: T tokens of a pack, N predicted tokens, V vocabulary, d hidden size.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from online_learner.policy.packing import Sequences, attention_within, pack

LOGITS_AT_ONCE = 2**21  # numbers
UNUSUAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # settings of models that change logits afterwards
TOLERANCE = 1e-3  # nats of a short response


def packed_logps(model: Any, sequences: Sequences) -> Tensor:
    """Summed log-probability of each response under ``model``, (B,), all of them in one pack."""
    packed, causal = pack(sequences), _causal(model)
    device = next(causal.parameters()).device
    with attention_within(packed.trees, causal):
        found = causal.base_model(
            input_ids=packed.ids.unsqueeze(0).to(device), position_ids=packed.positions.unsqueeze(0).to(device), use_cache=False
        )
    head = causal.get_output_embeddings()
    states = found.last_hidden_state[0].index_select(0, packed.predicted_from.to(device))
    logps = _HeadLogps.apply(states, head.weight, head.bias, packed.predicted_ids.to(device))
    return states.new_zeros(len(sequences)).index_add(0, packed.response.to(device), logps)  # pyright: ignore[reportArgumentType]


class _HeadLogps(torch.autograd.Function):
    """log P(ids[n]) from hidden states, (N, d) -> (N,). The head is frozen.

    Its gradient d log P / d state = W[id] - sum_v P(v) W[v] is made while the logits are there, so that they need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        logps = torch.empty(len(ids), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        rows = max(16, LOGITS_AT_ONCE // len(weight))
        for start in range(0, len(ids), rows):
            here = slice(start, start + rows)
            logits = nn.functional.linear(states[here], weight, bias).float()
            total = logits.logsumexp(-1, keepdim=True)
            logps[here] = (logits.gather(-1, ids[here].unsqueeze(-1)) - total).squeeze(-1)
            if gradient is not None:
                probabilities = logits.sub_(total).exp_().to(weight.dtype)
                torch.sub(weight[ids[here]], probabilities @ weight, out=gradient[here])
        ctx.save_for_backward(gradient)
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].unsqueeze(-1).to(gradient.dtype), None, None, None


_packable: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_pack(model: Any, plain_logps: Any) -> bool:
    """Whether packs give this model's log-probabilities: tried once on a few tokens against ``plain_logps(model, sequences)``.

    Recurrent layers, positions counted by the model itself and attention of its own making would mix up the responses of a pack;
    windows would show on long texts only, so that their settings are read.
    """
    if model not in _packable:
        _packable[model] = _looks_packable(model) and _agrees(model, plain_logps)
    return _packable[model]


def _looks_packable(model: Any) -> bool:
    causal = _causal(model)
    if not getattr(causal, "_supports_attention_backend", False) or next(causal.parameters()).device.type != "cpu":
        return False
    config = causal.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = all(kind == "full_attention" for kind in layers) if layers else not getattr(config, "sliding_window", None)
    head = causal.get_output_embeddings()
    plain_head = type(head) is nn.Linear and not head.weight.requires_grad
    return full and plain_head and not any(getattr(config, name, None) for name in UNUSUAL_HEADS)


@torch.no_grad()
def _agrees(model: Any, plain_logps: Any) -> bool:
    size = _causal(model).config.get_text_config().vocab_size
    draw = torch.randint(size, (2, 20), generator=torch.Generator().manual_seed(0)).tolist()
    few = [(tuple(own[:cut]), tuple(own[cut:end])) for own in draw for cut, end in ((5, 12), (5, 20), (3, 9))]
    return bool((packed_logps(model, few) - plain_logps(model, few)).abs().max() < TOLERANCE)


def _causal(model: Any) -> Any:
    """The transformers model, out of peft's wrapper where it is in one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
