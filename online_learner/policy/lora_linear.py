"""A LoRA linear layer whose gradients are written by hand: the same map as peft's, without its passes over whole activations.

peft computes x A', B', the scaling and the sum as tensor operations of their own; on a small model on a CPU they cost as much as
the matrix products. Here each is one product that adds into its result.
Shapes: N tokens, i inputs, o outputs, r rank.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + scale (x A') B'. W and the bias are frozen and get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (N, i)
        down = flat @ a.T  # (N, r)
        y = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        y.addmm_(down, b.T, alpha=scale)
        ctx.save_for_backward(flat, down, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, down, weight, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])  # (N, o)
        up = grad @ b  # (N, r)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(up, a, alpha=ctx.scale).view(ctx.shape)
        return grad_x, None, None, ctx.scale * (up.T @ flat), ctx.scale * (grad.T @ down), None


def speed_up(model: nn.Module) -> None:
    """Give the LoRA layers of a peft model this forward, where they are plain float32 linear layers on a CPU without dropout."""
    for module in model.modules():
        base: Any = getattr(module, "base_layer", None)
        if isinstance(base, nn.Linear) and _is_plain(module, base):
            module.forward = _forward_of(module, base)


def _is_plain(module: Any, base: nn.Linear) -> bool:
    only_lora = list(module.lora_A) == ["default"] and not module.use_dora["default"]
    no_dropout = isinstance(module.lora_dropout["default"], nn.Identity)
    on_cpu = base.weight.device.type == "cpu" and base.weight.dtype == torch.float32
    return only_lora and no_dropout and on_cpu and module.lora_A["default"].bias is None and module.lora_B["default"].bias is None


def _forward_of(module: Any, base: nn.Linear) -> Any:
    down, up, scale = module.lora_A["default"], module.lora_B["default"], module.scaling["default"]

    def forward(x: Tensor) -> Tensor:
        return _LoraLinear.apply(x, base.weight, base.bias, down.weight, up.weight, scale)  # pyright: ignore[reportReturnType]

    return forward
