"""Policies as LoRA adapters on one frozen base model.

The trained adapter (peft) hangs on the base's own frozen weights. Beside it is a copy, a plain model into which any policy's
weights, W + scale * B A, are written for sampling and scoring. The reference policy is that copy with the base weights written
back: it cannot depend on which adapter happens to be switched on.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from online_learner.policy.lora_linear import speed_up
from storage.contract.sealing import sha256
from storage.errors import UserError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class TrainedAdapter:
    """The adapter that a round trains: float32 LoRA weights on all linear layers but the output layer."""

    def __init__(self, base: nn.Module, *, rank: int, alpha: int, parent: Path | None, seed: int) -> None:
        """Starts at ``parent``'s adapter, or at the base policy (B = 0) where there is none.

        ``base`` is never changed: its frozen weights are shared, its modules are not. The parent's rank and alpha win over the
        settings, or its weights would not fit.
        """
        own = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
        if parent is None:
            torch.manual_seed(seed)  # peft draws A from the global generator
            targets = linear_layers(base)
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
            try:
                self.model: Any = get_peft_model(own, config)  # pyright: ignore[reportArgumentType]
            except ValueError as error:
                kind = type(base).__name__
                raise UserError(f"peft puts no LoRA weights on {kind}: {error} Use another base model.") from error
        else:
            self.model = PeftModel.from_pretrained(own, parent, is_trainable=True)  # pyright: ignore[reportArgumentType]
        speed_up(self.model)
        self.model.eval()  # no dropout anywhere: the probability that is trained is the one that samples

    def parameters(self) -> list[nn.Parameter]:
        """The LoRA weights, in a fixed order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def state(self) -> list[Tensor]:
        """A copy of the LoRA weights, for ``restore``."""
        return [parameter.detach().clone() for parameter in self.parameters()]

    def restore(self, state: list[Tensor]) -> None:
        """Put back weights that ``state`` gave."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), state, strict=True):
                parameter.copy_(value)

    def deltas(self) -> dict[str, Tensor]:
        """scale * B A by name of the base weight, each (out, in), float32."""
        found = {}
        for name, module in self.model.base_model.model.named_modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                found[f"{name}.weight"] = module.scaling["default"] * (b.detach() @ a.detach())
        return found

    def save(self, directory: Path) -> None:
        """adapter_config.json and adapter_model.safetensors, as peft reads them."""
        self.model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
        config = json.loads((directory / CONFIG).read_text())
        config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set, whose order differs between processes
        (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


class PolicyScorer:
    """A plain copy of the base model that becomes any policy: ``use`` it, then sample from or score with ``model``."""

    def __init__(self, base: nn.Module) -> None:
        self.model: Any = copy.deepcopy(base)
        self._base = dict(base.named_parameters())
        self._parameters = dict(self.model.named_parameters())
        self._transposed = {f"{name}.weight" for name, module in base.named_modules() if isinstance(module, Conv1D)}
        self._written: set[str] = set()

    def use(self, deltas: Mapping[str, Tensor]) -> Any:
        """Write base + deltas into the copy and return it; an empty mapping is the bare base, bit for bit."""
        with torch.no_grad():
            for name in self._written - deltas.keys():
                self._parameters[name].copy_(self._base[name])
            for name, delta in deltas.items():
                self._parameters[name].copy_(self._base[name] + (delta.T if name in self._transposed else delta))
        self._written = set(deltas)
        return self.model


def linear_layers(base: nn.Module) -> list[str]:
    """Names (last part) of the layers that get LoRA weights: every linear layer but the one that makes the logits.

    GPT-2 keeps its linear layers as Conv1D, with the weight transposed. Experts that share one three-dimensional weight stay
    as they are.
    """
    output = getattr(base, "get_output_embeddings", lambda: None)()
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not output]
    return sorted({name.rpartition(".")[2] for name in linear})


def adapter_deltas(directory: Path | None, device: torch.device) -> dict[str, Tensor]:
    """scale * B A of a saved adapter by name of the base weight, each (out, in); empty for the base policy (None)."""
    if directory is None:
        return {}
    config = json.loads((directory / CONFIG).read_text())
    scale = config["lora_alpha"] / config["r"]
    weights = load_file(directory / WEIGHTS, device=str(device))
    deltas = {}
    for name, a in weights.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            deltas[f"{module.removeprefix(_PREFIX)}.weight"] = scale * (weights[f"{module}.lora_B.weight"] @ a)
    return deltas


def extrapolated(deltas: Mapping[str, Tensor], previous: Mapping[str, Tensor], momentum: float) -> dict[str, Tensor]:
    """Weights W + momentum (W - W_previous) as deltas of the base, by name: one model further along the last step.

    Nesterov's extrapolation on parameters (arXiv:2410.06293, Eq. 3.7). A layer that one policy lacks counts as unchanged there.
    """
    zero = {name: torch.zeros_like(delta) for name, delta in [*deltas.items(), *previous.items()]}
    own, before = {**zero, **deltas}, {**zero, **previous}
    return {name: (1 + momentum) * own[name] - momentum * before[name] for name in zero}


def check_adapter(policy_id: str, facts: Mapping[str, Any]) -> Path | None:
    """Directory of a policy's adapter as lineage.json names it, None for the base; UserError where it is gone or changed."""
    if facts["adapter_dir"] is None:
        return None
    directory = Path(facts["adapter_dir"])
    weights = directory / WEIGHTS
    if not weights.exists():
        raise UserError(
            f"The adapter of policy {facts.get('number')} ({policy_id}) is not at {directory}. "
            "Restore the artifacts directory from a backup, or start from another policy."
        )
    expected = facts.get("adapter_sha256")
    if expected and sha256(weights) != expected:
        raise UserError(f"{weights} was changed after its round was sealed. Restore it from a backup.")
    return directory
