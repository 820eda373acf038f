"""``python -m online_learner fit``: fit preference models on one pairs file, compare them on another. No app needed.

Figures are on --eval. log_loss, accuracy, brier and ece are over decided pairs (label a or b), of P(a | decided), with the
natural logarithm; log_loss_with_ties also counts ties, as a third outcome. Sides are swapped at random with the seed.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from online_learner.device import choose_device, choose_threads
from online_learner.feature_cache import default_cache
from online_learner.features import load_encoder
from online_learner.pairs_file import Pair, load_pairs, shuffle_sides
from online_learner.preference_models.audit import audit_intransitivity, choose
from online_learner.preference_models.backbone import Tuning
from online_learner.preference_models.calibration import decided_metrics
from online_learner.preference_models.fit import FitData, compare
from online_learner.preference_models.fitted import FittedPreference
from online_learner.preference_models.observations import VERDICT_SIGN
from online_learner.preference_models.registry import PREFERENCE_MODELS, TEXT_MODELS
from online_learner.preference_models.text_fit import Encoder, TextPreference, fit_text_model
from online_learner.preference_models.text_models import TextModel
from storage.errors import UserError

logger = logging.getLogger(__name__)

TINY_POLICY = Path(__file__).parent / "tiny_policy"
FIGURES = ("log_loss", "accuracy", "ece", "brier", "n", "log_loss_with_ties")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``fit``."""
    parser.description = "Fit preference models on a pairs file and compare them on another."
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="judged pairs, .parquet or .jsonl")
    parser.add_argument("--eval", type=Path, required=True, metavar="FILE", help="judged pairs for the comparison")
    parser.add_argument("--encoder", metavar="DIR", help="Hugging Face model for features (default: the built-in one)")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", default=list(PREFERENCE_MODELS), help=f"of: {'; '.join(_described())}"
    )
    parser.add_argument(
        "--tune",
        choices=["head", "backbone"],
        default="head",
        help="fit heads on the frozen encoder's features (default), or train LoRA on the encoder with them (slow on a CPU)",
    )
    parser.add_argument("--epochs", type=int, default=3, help="most epochs tried with --tune backbone (default: 3)")
    parser.add_argument("--shots", type=int, default=4, help="labelled pairs of the annotator that few_shot reads (default: 4)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep features here (default: $NASHLOOP_CACHE or ~/.cache/nashloop)"
    )
    parser.add_argument("--no-cache", action="store_true", help="read all features anew and keep none")
    parser.add_argument("--seed", type=int, default=0, help="folds, bootstrap and side swaps (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="save the selected model here")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Fit, evaluate, print. Exit code 0; what a person can fix is a UserError."""
    started = time.monotonic()
    train = shuffle_sides(load_pairs(args.train), args.seed)
    held_out = shuffle_sides(load_pairs(args.eval), args.seed + 1)
    _warn_of_shared_prompts(train, held_out)
    if not any(pair.verdict in "ab" for pair in held_out):
        raise UserError(f"{args.eval} has no decided pair (label a or b). Give another file for --eval.")
    name = args.encoder or str(TINY_POLICY)
    encoder = _load(name, None if args.no_cache else args.cache or default_cache())
    fits, data = _fit(args, encoder, train)
    held_out = [pair for pair in held_out if pair.verdict in VERDICT_SIGN]
    of_pairs = {key: fit.pair_features(held_out, train) for key, (fit, _) in fits.items()}
    candidates = compare({key: (fit.fitted, losses) for key, (fit, losses) in fits.items()}, data)
    audit = audit_intransitivity(data, candidates)
    selected = choose(candidates, audit)
    report = selected.report
    result = {
        "models": {key: evaluate(fitted, held_out, *of_pairs[key]) for key, fitted in candidates.items()},
        "selected": report["selected"],
        "baselines": {"longer_wins": longer_wins(held_out)},
        "why": report["why"],
        "audit": audit,
        "heldout_in_train": {key: _figures(row) for key, row in report["models"].items()},
        "encoder": name,
        "seed": args.seed,
        "num_pairs": {"train": len(train), "eval": len(held_out)},
        "seconds": {"total": time.monotonic() - started},
    }
    if args.out:
        replace(fits[selected.name][0], fitted=selected).save(args.out)
    print(json.dumps(result, allow_nan=False) if args.json else render_table(result))
    return 0


def evaluate(fitted: FittedPreference, pairs: Sequence[Pair], a: Tensor, b: Tensor) -> dict[str, Any]:
    """Figures of one model on n pairs with verdict a, b or tie and their features (n, d), in all and by source."""
    annotators = [pair.annotator for pair in pairs]
    verdict = torch.tensor([VERDICT_SIGN[pair.verdict] for pair in pairs])
    probability = fitted.decided_probability(a, b, annotators)
    log_prob = fitted.verdict_log_prob(a, b, verdict, annotators)

    def figures(chosen: Tensor) -> dict[str, Any]:
        decided = chosen & (verdict != 0)
        scores = decided_metrics(probability[decided], (verdict[decided] > 0).float())
        with_ties = -log_prob[chosen].mean()
        return _figures({**scores, "log_loss_with_ties": float(with_ties) if with_ties.isfinite() else None})

    return {**figures(verdict < 2), "by_source": _by_source(pairs, figures)}


def longer_wins(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy of "the response with more characters wins" on decided pairs; equal lengths count one half."""
    pairs = [pair for pair in pairs if pair.verdict in ("a", "b")]
    difference = torch.tensor([float(len(pair.a.response) - len(pair.b.response)) for pair in pairs])
    won = torch.tensor([1.0 if pair.verdict == "a" else -1.0 for pair in pairs])
    right = (difference.sign() * won + 1) / 2

    def figures(chosen: Tensor) -> dict[str, Any]:
        return {"accuracy": float(right[chosen].mean()), "n": int(chosen.sum())}

    return {**figures(won.abs() > 0), "by_source": _by_source(pairs, figures)}


def render_table(result: Mapping[str, Any]) -> str:
    """The comparison for people: one line per model and source."""
    names = [*result["models"], *result["baselines"]]
    rows = {**result["models"], **result["baselines"]}
    sources = sorted({source for row in rows.values() for source in row["by_source"]})
    columns = (("log_loss", "log loss"), ("accuracy", "accuracy"), ("ece", "ECE"), ("brier", "Brier"))
    width = max(len(text) for text in [*names, *sources, "all sources"]) + 2
    lines = [f"{'source':{width}}{'model':{width}}{'decided':>8}" + "".join(f"{title:>10}" for _, title in columns)]
    for source in [*sources, "all sources"]:
        for name in names:
            row = rows[name] if source == "all sources" else rows[name]["by_source"].get(source, {})
            cells = "".join(f"{row[key]:>10.3f}" if row.get(key) is not None else f"{'-':>10}" for key, _ in columns)
            lines.append(f"{source:{width}}{name:{width}}{row.get('n', 0):>8}{cells}")
    lines += [
        "",
        f"selected: {result['selected']} ({result['why']})",
        result["audit"]["sentence"],
        "Decided pairs only, natural logarithm; an even coin has log loss 0.693. Sides were swapped at random.",
    ]
    return "\n".join(lines)


def _by_source(pairs: Sequence[Pair], figures: Callable[[Tensor], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    sources = sorted({pair.source for pair in pairs})
    return {source: figures(torch.tensor([pair.source == source for pair in pairs])) for source in sources}


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in FIGURES if key in row}


def _load(name: str, cache: Path | None) -> Encoder:
    model, tokenizer = load_encoder(name)
    choose_threads(sum(parameter.numel() for parameter in model.parameters()))
    return Encoder.of(model.to(choose_device("auto")), tokenizer, cache)


def _fit(
    args: argparse.Namespace, encoder: Encoder, pairs: Sequence[Pair]
) -> tuple[dict[str, tuple[TextPreference, Tensor]], FitData]:
    """Every model asked for, simplest first, and the data of the first one."""
    unknown = [name for name in args.models if name not in PREFERENCE_MODELS and name not in TEXT_MODELS]
    if unknown:
        raise UserError(f"Preference models {unknown} are unknown. Choose from {[*PREFERENCE_MODELS, *TEXT_MODELS]}.")
    tuning = Tuning(epochs=args.epochs) if args.tune == "backbone" else None
    fits: dict[str, tuple[TextPreference, Tensor]] = {}
    first: FitData | None = None
    for name in [*PREFERENCE_MODELS, *TEXT_MODELS]:
        if name not in args.models:
            continue
        _say(f"fitting {name} on {len(pairs)} pairs")
        model = TEXT_MODELS[name] if name in TEXT_MODELS else TextModel(family=PREFERENCE_MODELS[name], reads="responses")
        model = replace(model, shots=args.shots) if model.shots else model
        fit, losses, data = fit_text_model(model, encoder, pairs, seed=args.seed, tuning=tuning, progress=_say)
        fits[name], first = (fit, losses), first or data
    assert first is not None  # argparse wants at least one name
    return fits, first


def _described() -> list[str]:
    families = [*PREFERENCE_MODELS.values(), *(model.family for model in TEXT_MODELS.values())]
    return [f"{family.name} ({family.summary})" for family in families]


def _warn_of_shared_prompts(train: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    shared = {pair.group for pair in train} & {pair.group for pair in held_out}
    if shared:
        logger.warning("%d prompts are in both files: figures on them flatter the models", len(shared))


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
