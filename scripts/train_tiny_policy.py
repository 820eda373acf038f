"""Trains the built-in tiny policy from nothing and measures it.

    python scripts/train_tiny_policy.py             everything that lies in online_learner/tiny_policy
    python scripts/train_tiny_policy.py --check     measure the weights that are there; exit code 1 where a target is missed

One CPU thread, so that the same machine gives the same weights.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tiny_corpus
import torch
from tiny_continuations import Continuations
from tiny_corpus import Example, Item
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from online_learner.text_quality import load_known_sentences, on_topic, text_quality

CARD_FILE = Path(__file__).with_name("tiny_policy_card.md")
MODEL_DIR = Path(__file__).resolve().parent.parent / "online_learner" / "tiny_policy"
PAD, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' + message['content'] | trim }}"
    "{%- if message['role'] == 'assistant' -%}{{ '<|end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
SYSTEM_MESSAGES = ("You are a helpful assistant.", "Answer the question of the user.", "You give everyday advice.")
LOG_EVERY = 50
TARGETS = {"correct": 0.90, "on_topic": 0.95, "style_distance": 0.03}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One warm-up and cosine, from fresh optimisers on fresh examples."""

    steps: int
    peak: float
    """share of the recipe's learning rates"""
    impossible_weight: float
    """weight of -log(mass on possible next tokens) beside -log(p of the token drawn); any weight has the same best model"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Size of the model and how it is trained."""

    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 416
    num_layers: int = 4
    num_heads: int = 4
    context: int = 512
    passes: tuple[Pass, ...] = (
        Pass(steps=1600, peak=1.0, impossible_weight=0.0),
        Pass(steps=500, peak=0.5, impossible_weight=3.0),
        Pass(steps=150, peak=0.2, impossible_weight=1.0),
    )
    batch_size: int = 64
    sub_batch_size: int = 16
    matrix_learning_rate: float = 0.02
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    max_grad_norm: float = 1.0
    system_share: float = 0.05
    seed: int = 0


def train_tokenizer(items: list[Item], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer fitted to the corpus; it can spell any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = itertools.islice(tiny_corpus.corpus(items, recipe.seed), 30_000)
    tokenizer.train_from_iterator((f"{e.question}\n{e.response}" for e in examples), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=recipe.context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """A Llama with random weights that stops at the end token and samples its own distribution."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One conversation in tokens, and for each response token those that could stand in its place."""

    ids: list[int]
    prompt_length: int
    possible: list[list[int]]


def encode(tokenizer: PreTrainedTokenizerFast, continuations: Continuations, example: Example, system: str | None) -> Sequence:
    """An example as the chat template renders it."""
    prompt = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": example.question}]
    prompt_ids = tokenizer.encode(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    response_ids = tokenizer.encode(example.response + END)
    possible = continuations.of(example.item, example.style, response_ids)
    return Sequence(ids=prompt_ids + response_ids, prompt_length=len(prompt_ids), possible=possible)


def response_losses(model: LlamaForCausalLM, batch: list[Sequence]) -> tuple[Tensor, Tensor]:
    """Sums over the response and end tokens, nats, scalars: -log p of the token drawn, -log of the mass on possible tokens."""
    longest = max(len(sequence.ids) for sequence in batch)
    tokens = torch.tensor([sequence.ids + [0] * (longest - len(sequence.ids)) for sequence in batch])
    counted = torch.tensor([[s.prompt_length <= t < len(s.ids) for t in range(1, longest)] for s in batch])
    # Padding is on the right, so the causal mask alone keeps it out of every counted position.
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
    logps = functional.log_softmax(model.lm_head(hidden[counted]), dim=-1)
    possible = [ids for sequence in batch for ids in sequence.possible]
    rows = torch.tensor([row for row, ids in enumerate(possible) for _ in ids])
    columns = torch.tensor([token for ids in possible for token in ids])
    mass = torch.zeros(len(possible)).index_add(0, rows, logps[rows, columns].exp())
    return functional.nll_loss(logps, tokens[:, 1:][counted], reduction="sum"), -mass.clamp(min=1e-9).log().sum()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[Item], recipe: Recipe) -> None:
    """Every pass of a recipe, one after the other.

    The first learns to speak (86 % of the answers whole), the second drives out what cannot be said (94 %), the third brings back
    the mix of styles, which the second shifts by up to .04.
    """
    continuations = Continuations(tokenizer, END)
    for number, training_pass in enumerate(recipe.passes, start=1):
        print(f"pass {number} of {len(recipe.passes)}", flush=True)
        examples = tiny_corpus.corpus(items, recipe.seed + number)
        batches = (list(itertools.islice(examples, recipe.batch_size)) for _ in range(training_pass.steps))
        train_pass(model, tokenizer, continuations, batches, recipe, training_pass)


def train_pass(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    continuations: Continuations,
    batches: Iterable[list[Example]],
    recipe: Recipe,
    training_pass: Pass,
) -> None:
    """Muon on the weight matrices and AdamW on the rest, with warm-up and a cosine.

    A step is a random batch cut by length into sub-batches: little padding, and every token of the batch weighs the same.
    (Batches sorted by length with a token mean each would over-weight short answers.)
    """
    optimizers = new_optimizers(model, recipe, training_pass)
    schedules = [LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe, training_pass)) for optimizer in optimizers]
    system_every = round(1 / recipe.system_share)
    started, drawn_nats, impossible_nats = time.monotonic(), 0.0, 0.0
    for step, batch in enumerate(batches):
        system = SYSTEM_MESSAGES[step % len(SYSTEM_MESSAGES)]
        systems = [None if i % system_every else system for i in range(len(batch))]
        sequences = [encode(tokenizer, continuations, *pair) for pair in zip(batch, systems, strict=True)]
        sequences.sort(key=lambda sequence: len(sequence.ids))
        num_tokens = sum(len(sequence.possible) for sequence in sequences)
        for start in range(0, len(sequences), recipe.sub_batch_size):
            drawn, impossible = response_losses(model, sequences[start : start + recipe.sub_batch_size])
            ((drawn + training_pass.impossible_weight * impossible) / num_tokens).backward()
            drawn_nats += drawn.item() / num_tokens / LOG_EVERY
            impossible_nats += impossible.item() / recipe.batch_size / LOG_EVERY
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        for stepped in (*optimizers, *schedules):
            stepped.step()
        model.zero_grad()
        if (step + 1) % LOG_EVERY == 0:
            losses = f"{drawn_nats:.3f} nats/token, {impossible_nats:.3f} nats/response on impossible tokens"
            print(f"step {step + 1}/{training_pass.steps}  {losses}  {time.monotonic() - started:.0f} s", flush=True)
            drawn_nats = impossible_nats = 0.0


def new_optimizers(model: LlamaForCausalLM, recipe: Recipe, training_pass: Pass) -> list[torch.optim.Optimizer]:
    """Muon (arXiv:2502.16982) for the matrices inside the layers, AdamW for embedding and norms.

    After 200 of 300 steps the loss stood at .79 nats a token against 1.12 with AdamW alone, at the same cost.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inside = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [
        torch.optim.Muon(matrices, lr=training_pass.peak * recipe.matrix_learning_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=training_pass.peak * recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def learning_rate_factor(step: int, recipe: Recipe, training_pass: Pass) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (training_pass.steps - recipe.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.inference_mode()
def sample(model_dir: Path, questions: list[str], seed: int) -> list[str]:
    """One response to each question at temperature 1, as any user of the model directory would draw it."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    torch.manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(questions), 256):
        chats = [[{"role": "user", "content": question}] for question in questions[start : start + 256]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
        )
        output = model.generate(**inputs)
        responses += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return responses


def measure(model_dir: Path, split: str, num_samples: int, seed: int) -> dict:
    """Correctness, topic and style mix of responses to the shipped questions of one split."""
    rows = [json.loads(line) for line in (model_dir / "prompts.jsonl").read_text().splitlines()]
    asked = [row["prompt"][0]["content"] for row in rows if row["split"] == split]
    questions = [asked[i % len(asked)] for i in range(num_samples)]
    responses = sample(model_dir, questions, seed)
    known = load_known_sentences(model_dir)
    assert known is not None
    styles = Counter(tiny_corpus.style_of(response) for response in responses)
    mix = {style: styles[style] / num_samples for style in tiny_corpus.STYLES}
    return {
        "split": split,
        "samples": num_samples,
        "correct": text_quality(known, questions, responses),
        "on_topic": on_topic(known, questions, responses),
        "style_distance": max(abs(mix[style] - share) for style, (share, _) in tiny_corpus.STYLES.items()),
        "style_mix": {style: round(share, 3) for style, share in mix.items()},
        "mean_words": sum(len(response.split()) for response in responses) / num_samples,
        "distinct": len(set(zip(questions, responses, strict=True))) / num_samples,
    }


def write_card(model_dir: Path, items: list[Item], recipe: Recipe, num_parameters: int, seconds: float, rows: list[dict]) -> None:
    """The model card, with the figures just measured."""
    names = {"train": "trained", "heldout": "kept out of training"}
    line = "| {} | {correct:.3f} | {on_topic:.3f} | {style_distance:.3f} | {mean_words:.0f} |"
    text = CARD_FILE.read_text().format(
        parameters=num_parameters / 1e6,
        vocabulary=recipe.vocab_size,
        context=recipe.context,
        topics=len(items),
        domains=len({item.domain for item in items}),
        forms=len(tiny_corpus.questions_of(items[0])),
        tips=len(items[0].tips),
        train=tiny_corpus.NUM_TRAIN_PROMPTS,
        heldout=tiny_corpus.NUM_HELDOUT_PROMPTS,
        steps=sum(training_pass.steps for training_pass in recipe.passes),
        batch=recipe.batch_size,
        minutes=seconds / 60,
        samples=rows[0]["samples"],
        rows="\n".join(line.format(names[row["split"]], **row) for row in rows),
        mix=", ".join(f"{style.replace('_', ' ')} {share:.2f}" for style, (share, _) in tiny_corpus.STYLES.items()),
    )
    (model_dir / "README.md").write_text(text)


def meets_targets(row: dict) -> bool:
    """True where one split's measurements reach every target."""
    enough = row["correct"] >= TARGETS["correct"] and row["on_topic"] >= TARGETS["on_topic"]
    return enough and row["style_distance"] <= TARGETS["style_distance"]


def train_and_save(model_dir: Path, items: list[Item], recipe: Recipe) -> tuple[int, float]:
    """Writes data, tokenizer and weights; returns (number of parameters, seconds of processor time)."""
    started = time.process_time()
    tiny_corpus.write_data(items, model_dir)
    tokenizer = train_tokenizer(items, recipe)
    model = new_model(tokenizer, recipe)
    print(f"{model.num_parameters() / 1e6:.2f} million parameters", flush=True)
    train(model, tokenizer, items, recipe)
    tokenizer.save_pretrained(model_dir)
    model.save_pretrained(model_dir)
    (model_dir / "model.safetensors").chmod(0o644)
    return model.num_parameters(), time.process_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Train and measure the built-in tiny policy.")
    parser.add_argument("--check", action="store_true", help="only measure the weights that are there")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, metavar="DIR")
    parser.add_argument("--samples", type=int, default=1536, help="responses measured per split")
    args = parser.parse_args()
    torch.set_num_threads(1)
    items, recipe = tiny_corpus.load_items(), Recipe()
    trained = None if args.check else train_and_save(args.out, items, recipe)
    rows = [measure(args.out, split, args.samples, seed=1) for split in ("train", "heldout")]
    for row in rows:
        print(json.dumps(row))
    if trained:
        write_card(args.out, items, recipe, *trained, rows)
    return 0 if all(map(meets_targets, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
