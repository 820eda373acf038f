"""What both sides of ``bench learner`` compute on, in one directory: a base model, a LoRA start, prompts, responses, who wins.

Token ids are drawn at random, as speed does not depend on what a text says. The tokenizer has one word for each id, so that a
trainer that reads text sees the very same tokens. N prompts, K responses to each.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.train import Schedule

TINY = Path(__file__).parent / "tiny_policy"
LLAMA_9M: dict[str, Any] = {
    "vocab_size": 4096, "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 5, "num_attention_heads": 5,
    "num_key_value_heads": 5, "max_position_embeddings": 1024, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
    "bos_token_id": None,
}  # fmt: skip
MODELS = ("tiny", "llama-9m")
RANK, ALPHA = 16, 32
BETA = 0.1  # of DPO
SPECIAL = 3  # ids that no text holds: padding, unknown, end (of the tiny policy: 0, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Prompts and responses as token ids, responses with their end token; each of a prompt's responses beats the next ones."""

    case: str
    model: str
    prompts: list[list[int]]  # (N,)
    responses: list[list[list[int]]]  # (N, K); empty where they are to be generated
    num_responses: int  # K
    prompts_per_step: int
    max_new_tokens: int
    learning_rate: float
    threads: int

    @property
    def num_pairs(self) -> int:
        return len(self.prompts) * self.num_responses * (self.num_responses - 1) // 2

    def pairs(self) -> list[tuple[int, int, int]]:
        """(prompt, winner, loser) of every pair, prompt by prompt."""
        return [(n, i, j) for n, own in enumerate(self.responses) for i, j in combinations(range(len(own)), 2)]

    def save(self, directory: Path) -> None:
        (directory / "work.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, directory: Path) -> "Work":
        return cls(**json.loads((directory / "work.json").read_text()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed run. By the losses and gradient norms (before clipping) of each step two sides can be seen to do the same."""

    seconds: float
    cpu_seconds: float  # of all threads: what the work costs, however busy the machine is
    losses: list[float]
    gradient_norms: list[float]
    phases: dict[str, float]  # seconds of the processor
    response_tokens: int  # sampled or given; 0 where the side does not tell


def start_clock() -> Callable[[], dict[str, float]]:
    """Seconds since now, by the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    return lambda: {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}


def schedule_of(work: Work) -> Schedule:
    """One pass in the given order."""
    return Schedule(epochs=1, groups_per_step=work.prompts_per_step, learning_rate=work.learning_rate, seed=0, in_order=True)


def load_base(directory: Path) -> Any:
    """The frozen base model of the work."""
    return AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32).eval().requires_grad_(False)


def lay_out(directory: Path, *, case: str, model: str, num_prompts: int, length: int, threads: int, seed: int) -> Work:
    """Write model/, start/ (a LoRA adapter at zero) and work.json. Prompts have a tenth to six tenths of ``length`` tokens,
    responses two tenths to ten tenths.
    """
    base = save_base(directory / "model", model, seed)
    TrainedAdapter(base, rank=RANK, alpha=ALPHA, parent=None, seed=seed).save(directory / "start")
    generator = torch.Generator().manual_seed(seed)
    end = base.generation_config.eos_token_id

    def draw(low: float, high: float) -> list[int]:
        count = int(torch.randint(max(1, int(low * length)), int(high * length) + 1, (1,), generator=generator))
        return torch.randint(SPECIAL, base.config.vocab_size, (count,), generator=generator).tolist()

    prompts = [draw(0.1, 0.6) for _ in range(num_prompts)]
    k = {"pairs": 2, "all-pairs": 4, "online-step": 2}[case]
    work = Work(
        case=case,
        model=model,
        prompts=prompts,
        responses=[] if case == "online-step" else [[[*draw(0.2, 1.0), end] for _ in range(k)] for _ in prompts],
        num_responses=k,
        prompts_per_step={"pairs": 8, "all-pairs": 2, "online-step": num_prompts}[case],  # pairs in a step: 8, 12, all
        max_new_tokens=max(4, length // 2),
        learning_rate=1e-3,
        threads=threads,
    )
    work.save(directory)
    return work


def save_base(directory: Path, name: str, seed: int) -> Any:
    """A base model by name with the tokenizer of one word for each token id, saved; random weights but for the tiny policy."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(TINY) if name == "tiny" else LlamaForCausalLM(LlamaConfig(**LLAMA_9M))
    base.eval().requires_grad_(False).save_pretrained(directory)
    end, padding = base.config.eos_token_id, base.config.pad_token_id
    unknown = next(i for i in range(SPECIAL) if i not in (end, padding))
    words = {f"w{i}": i for i in range(base.config.vocab_size)}
    names = {"eos_token": ("</s>", end), "pad_token": ("<pad>", padding), "unk_token": ("<unk>", unknown)}
    for word, i in names.values():
        del words[f"w{i}"]
        words[word] = i
    tokenizer = Tokenizer(WordLevel(dict(sorted(words.items(), key=lambda item: item[1])), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{key: word for key, (word, _) in names.items()})
    fast.save_pretrained(directory)
    return base


def text_of(ids: list[int], end: int) -> str:
    """The words of token ids, for trainers that read text; the end token is left to them."""
    return "".join(f" w{i}" for i in ids if i != end)


def reward(token_ids: list[int]) -> float:
    """What the online step prefers: the share of even ids."""
    return sum(1 - i % 2 for i in token_ids) / max(1, len(token_ids))
