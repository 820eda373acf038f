"""The TRL exports are what TRL reads: loaded with ``datasets`` and trained on for a step."""

import pytest

from storage.duckdb_store import open_store
from storage.exports import write_export
from tests.storage.builders import fill, judge

datasets = pytest.importorskip("datasets")


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    store = open_store()
    fill(store, num_tasks=8)
    for verdict in "aabbaabb":
        judge(store, "ann0", verdict, strength=2)
    paths = {
        f"{name}.{suffix}": tmp_path / f"{name}.{suffix}" for name in ("trl", "trl-implicit") for suffix in ("jsonl", "parquet")
    }
    for name, path in paths.items():
        write_export(store, name.split(".")[0], path)
    store.close()
    return paths


def load(path, cache):
    kind = "json" if path.suffix == ".jsonl" else "parquet"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache))


@pytest.mark.parametrize("name", ["trl.jsonl", "trl.parquet", "trl-implicit.jsonl", "trl-implicit.parquet"])
def test_the_export_loads_as_a_dataset(exported, tmp_path, name):
    loaded = load(exported[name], tmp_path / "cache")
    assert loaded.num_rows == 8
    assert loaded[0]["chosen"][-1]["role"] == "assistant"
    assert {"chosen", "rejected"} <= set(loaded.column_names)


@pytest.fixture
def tiny_model(tmp_path):
    """Directory of a random Llama of two layers and a tokenizer of words with a chat template."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    names = [f"q{i}" for i in range(8)]
    words = ["<pad>", "<eos>", "<unk>", "Question", "Answer", "user", "assistant", "?", ".", ":", "-", "1", "2", *names]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} <eos> {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["trl.jsonl", "trl-implicit.parquet"])
def test_dpo_trainer_takes_a_step_on_the_export(exported, tmp_path, tiny_model, name):
    trl = pytest.importorskip("trl")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "dpo"), max_steps=1, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        use_cpu=True, save_strategy="no", logging_steps=1, bf16=False,
    )  # fmt: skip
    rows = load(exported[name], tmp_path / "cache")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    [first] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy = reference before the first step: -log sigmoid(0) = log 2
    assert any(not torch.equal(before[key], value.cpu()) for key, value in model.state_dict().items())
