"""The mean of adapters: exact in every weight, read by peft, and refused where there is none."""

import json
import shutil

import pytest
import torch
from peft import PeftModel

from annotate_app.bootstrap import built_in_model_dir
from online_learner.average_command import average_adapters
from online_learner.policy.adapters import TrainedAdapter, adapter_deltas
from online_learner.policy.base_model import load_base_model
from storage.errors import UserError


@pytest.fixture(scope="module")
def base():
    if not (built_in_model_dir() / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained yet: run scripts/train_tiny_policy.py")
    return load_base_model(str(built_in_model_dir()), device="cpu")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Two random adapters, of rank 4 with scale 2 and of rank 2 with scale 4."""
    found = []
    for seed, rank, alpha in ((1, 4, 8), (2, 2, 8)):
        adapter = TrainedAdapter(base.model, rank=rank, alpha=alpha, parent=None, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        found.append(tmp_path_factory.mktemp("adapter") / "adapter")
        adapter.save(found[-1])
    return found


def test_the_mean_changes_every_weight_by_the_mean(base, adapters, tmp_path):
    average_adapters(adapters, tmp_path / "mean")
    first, second, mean = (adapter_deltas(directory, base.device) for directory in (*adapters, tmp_path / "mean"))
    assert first.keys() == second.keys() == mean.keys() and len(mean) == 28  # seven layers in each of four blocks
    for name, delta in mean.items():
        assert torch.allclose(delta, (first[name] + second[name]) / 2, atol=1e-6)
    assert json.loads((tmp_path / "mean" / "adapter_config.json").read_text())["r"] == 6


def test_peft_reads_the_mean(base, adapters, tmp_path):
    average_adapters(adapters, tmp_path / "mean")
    fresh = load_base_model(str(built_in_model_dir()), device="cpu")
    model = PeftModel.from_pretrained(fresh.model, tmp_path / "mean")
    name = "model.layers.0.self_attn.q_proj.weight"
    change = model.merge_and_unload().get_parameter(name) - base.model.get_parameter(name)
    expected = sum(adapter_deltas(directory, base.device)[name] for directory in adapters) / 2
    assert torch.allclose(change, expected, atol=1e-5)


def test_what_has_no_mean_is_refused(adapters, tmp_path):
    with pytest.raises(UserError, match="is its own mean"):
        average_adapters(adapters[:1], tmp_path / "mean")
    with pytest.raises(UserError, match="is no LoRA adapter"):
        average_adapters([adapters[0], tmp_path], tmp_path / "mean")
    other = shutil.copytree(adapters[1], tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "another"}))
    with pytest.raises(UserError, match="its base is another"):
        average_adapters([adapters[0], other], tmp_path / "mean")
    with pytest.raises(UserError, match="exists already"):
        average_adapters(adapters, tmp_path)
