import json

import pytest
import torch
from peft import PeftModel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from online_learner.generation.transformers_backend import sample_with_transformers
from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import (
    PolicyScorer,
    TrainedAdapter,
    adapter_deltas,
    check_adapter,
    extrapolated,
    linear_layers,
)
from storage.contract.sealing import sha256
from storage.contract.settings import GenerationSettings
from storage.errors import UserError

CPU = torch.device("cpu")
LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
BATCH = [TokenisedResponse((3, 4, 5), (6, 7, 8, 2)), TokenisedResponse((9,), (10, 11)), TokenisedResponse((12, 13), (2,))]
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, **LLAMA)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=50)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(max_position_embeddings=64, num_local_experts=2, num_key_value_heads=2, **LLAMA)
    ),
}


def build(name: str):
    torch.manual_seed(0)
    return MODELS[name]().eval().requires_grad_(False)


@pytest.fixture(params=MODELS)
def base(request):
    return build(request.param)


def moved_adapter(base, parent=None, seed: int = 0) -> TrainedAdapter:
    """An adapter that is far from the base policy."""
    adapter = TrainedAdapter(base, rank=4, alpha=8, parent=parent, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapter


@torch.no_grad()
def logps(model) -> torch.Tensor:
    return response_logps(model, BATCH)


def test_a_fresh_adapter_is_the_base_policy(base):
    adapter = TrainedAdapter(base, rank=4, alpha=8, parent=None, seed=0)
    torch.testing.assert_close(logps(adapter.model), logps(base), rtol=0, atol=1e-5)


def test_written_weights_are_the_adapter(base, tmp_path):
    adapter = moved_adapter(base)
    adapter.save(tmp_path)
    scorer = PolicyScorer(base)
    assert (logps(adapter.model) - logps(base)).abs().max() > 0.1
    torch.testing.assert_close(logps(scorer.use(adapter_deltas(tmp_path, CPU))), logps(adapter.model), rtol=0, atol=2e-5)
    torch.testing.assert_close(logps(scorer.use(adapter.deltas())), logps(adapter.model), rtol=0, atol=2e-5)


def test_peft_alone_reads_a_saved_adapter(base, tmp_path):
    adapter = moved_adapter(base)
    adapter.save(tmp_path)
    expected = logps(adapter.model)
    torch.testing.assert_close(logps(PeftModel.from_pretrained(base, tmp_path).eval()), expected, rtol=0, atol=1e-5)


def test_moving_the_policy_moves_neither_reference_nor_history(base, tmp_path):
    """Log-probabilities and samples of the reference and two earlier policies, bit for bit, around a fit that starts at one."""
    settings = GenerationSettings(max_new_tokens=8)  # pyright: ignore[reportCallIssue]
    for number in (1, 2):
        moved_adapter(base, seed=number).save(tmp_path / f"policy{number}")
    scorer = PolicyScorer(base)

    def frozen() -> list[tuple[torch.Tensor, list]]:
        directories = (None, tmp_path / "policy1", tmp_path / "policy2")  # None is the reference
        return [of(scorer.use(adapter_deltas(directory, CPU))) for directory in directories]

    def of(model) -> tuple[torch.Tensor, list]:
        drawn = sample_with_transformers(
            model, [(3, 4), (5,)], num_responses=4, settings=settings, end_ids=(2,), context=64, seed=1
        )
        return logps(model), drawn

    before = frozen()
    adapter = TrainedAdapter(base, rank=4, alpha=8, parent=tmp_path / "policy2", seed=0)
    start = logps(adapter.model)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        response_logps(adapter.model, BATCH).sum().backward()
        optimiser.step()
    assert (logps(adapter.model) - start).abs().max() > 0.1  # the policy did move
    scorer.use(adapter.deltas())
    for (old_logps, old_samples), (new_logps, new_samples) in zip(before, frozen(), strict=True):
        assert torch.equal(old_logps, new_logps)
        assert old_samples == new_samples
    assert len({tuple(old_logps.tolist()) for old_logps, _ in before}) == 3  # three different policies


def test_the_base_model_is_never_changed(base):
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapter = moved_adapter(base)
    scorer = PolicyScorer(base)
    for _ in range(20):
        scorer.use(adapter.deltas())
        scorer.use({})
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in scorer.model.state_dict().items())


def test_a_policy_starts_where_its_parent_stands(base, tmp_path):
    parent = moved_adapter(base)
    parent.save(tmp_path)
    child = TrainedAdapter(base, rank=64, alpha=1, parent=tmp_path, seed=5)  # the parent's rank wins
    torch.testing.assert_close(logps(child.model), logps(parent.model), rtol=0, atol=1e-6)
    assert all(parameter.requires_grad for parameter in child.parameters())
    assert len(child.parameters()) == len(parent.parameters())


def test_the_same_seed_gives_the_same_file(tmp_path):
    """The configuration too: peft keeps the layer names as a set, whose order differs between processes."""
    for name in ("one", "two"):
        moved_adapter(build("llama"), seed=3).save(tmp_path / name)
    assert sha256(tmp_path / "one/adapter_model.safetensors") == sha256(tmp_path / "two/adapter_model.safetensors")
    layers = json.loads((tmp_path / "one/adapter_config.json").read_text())["target_modules"]
    assert layers == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_output_layer_gets_no_weights():
    assert linear_layers(build("gpt2")) == ["c_attn", "c_fc", "c_proj"]  # not lm_head
    assert "lm_head" not in linear_layers(build("llama"))


def test_restoring_undoes_training():
    adapter = moved_adapter(build("llama"))
    kept, before = adapter.state(), logps(adapter.model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
    assert not torch.equal(logps(adapter.model), before)
    adapter.restore(kept)
    assert torch.equal(logps(adapter.model), before)


def test_extrapolated_weights_lie_beyond_the_last_step():
    """W = 3 after W = 1 with momentum .5 is 3 + .5 * 2 = 4; a layer the earlier policy lacks grows from 0: 2 + .5 * 2 = 3."""
    one, zero = torch.ones(2, 2), torch.zeros(2, 2)
    moved = extrapolated({"a": 3 * one, "b": 2 * one}, {"a": one}, 0.5)
    assert torch.equal(moved["a"], 4 * one) and torch.equal(moved["b"], 3 * one)
    assert torch.equal(extrapolated({}, {"a": one}, 0.5)["a"], zero - 0.5 * one)


def test_a_changed_or_missing_adapter_is_refused(tmp_path):
    moved_adapter(build("llama")).save(tmp_path / "adapter")
    weights = tmp_path / "adapter/adapter_model.safetensors"
    facts = {"number": 3, "adapter_dir": str(tmp_path / "adapter"), "adapter_sha256": sha256(weights)}
    assert check_adapter("p", facts) == tmp_path / "adapter"
    assert check_adapter("p", {"adapter_dir": None}) is None
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="was changed"):
        check_adapter("p", facts)
    weights.unlink()
    with pytest.raises(UserError, match="policy 3"):
        check_adapter("p", facts)
