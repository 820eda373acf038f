"""``python -m online_learner fit``: fit preference models on one pairs file, compare them on another. No app needed.

Figures are on --eval. log_loss, accuracy, brier and ece are over decided pairs (label a or b), of P(a | decided), with the
natural logarithm; log_loss_with_ties also counts ties, as a third outcome. Sides are swapped at random with the seed.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from online_learner.device import choose_device, choose_threads
from online_learner.feature_cache import default_cache
from online_learner.features import load_encoder
from online_learner.fit_figures import evaluate, longer_wins, render_table, reported, save_reliability
from online_learner.pairs_file import Pair, load_pairs, shuffle_sides
from online_learner.preference_models.audit import audit_intransitivity, choose
from online_learner.preference_models.backbone import Tuning
from online_learner.preference_models.fit import FitData, compare
from online_learner.preference_models.observations import VERDICT_SIGN
from online_learner.preference_models.registry import PREFERENCE_MODELS, TEXT_MODELS
from online_learner.preference_models.reward_voting import LABEL_MAPS
from online_learner.preference_models.text_fit import Encoder, TextPreference, fit_text_model
from online_learner.preference_models.text_models import TextModel
from storage.errors import UserError

logger = logging.getLogger(__name__)

DEFAULT_MODELS = ("bradley_terry", "bt_gpm")  # the two that the audit compares
TINY_POLICY = Path(__file__).parent / "tiny_policy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``fit``."""
    parser.description = "Fit preference models on a pairs file and compare them on another."
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="judged pairs, .parquet or .jsonl")
    parser.add_argument("--eval", type=Path, required=True, metavar="FILE", help="judged pairs for the comparison")
    parser.add_argument("--encoder", metavar="DIR", help="Hugging Face model for features (default: the built-in one)")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", default=list(DEFAULT_MODELS), help=f"of: {'; '.join(_described())}"
    )
    parser.add_argument(
        "--tune",
        choices=["head", "backbone"],
        default="head",
        help="fit heads on the frozen encoder's features (default), or train LoRA on the encoder with them (slow on a CPU)",
    )
    parser.add_argument(
        "--label-map",
        choices=LABEL_MAPS,
        default="none",
        help="labels that an ensemble votes against are turned (flip) or count less (soften) in the fit of heads, or pairs are "
        "asked for a margin by its votes",
    )
    parser.add_argument("--epochs", type=int, default=3, help="most epochs tried with --tune backbone (default: 3)")
    parser.add_argument("--shots", type=int, default=4, help="labelled pairs of the annotator that few_shot reads (default: 4)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep features here (default: $NASHLOOP_CACHE or ~/.cache/nashloop)"
    )
    parser.add_argument("--no-cache", action="store_true", help="read all features anew and keep none")
    parser.add_argument("--seed", type=int, default=0, help="folds, bootstrap and side swaps (default: 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw how reliable the selected model's probabilities are")
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
        "heldout_in_train": {key: reported(row) for key, row in report["models"].items()},
        "encoder": name,
        "seed": args.seed,
        "num_pairs": {"train": len(train), "eval": len(held_out)},
        "seconds": {"total": time.monotonic() - started},
    }
    if args.out:
        replace(fits[selected.name][0], fitted=selected).save(args.out)
    if args.plot:
        save_reliability(selected.name, report["reliability"], args.plot)
    print(json.dumps(result, allow_nan=False) if args.json else render_table(result))
    return 0


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
    if args.tune == "backbone" and args.label_map != "none":
        raise UserError(f"--label-map {args.label_map} maps labels for heads on frozen features. Leave out --tune backbone.")
    tuning = Tuning(epochs=args.epochs) if args.tune == "backbone" else None
    fits: dict[str, tuple[TextPreference, Tensor]] = {}
    first: FitData | None = None
    for name in [*PREFERENCE_MODELS, *TEXT_MODELS]:
        if name not in args.models:
            continue
        _say(f"fitting {name} on {len(pairs)} pairs")
        model = TEXT_MODELS[name] if name in TEXT_MODELS else TextModel(family=PREFERENCE_MODELS[name], reads="responses")
        model = replace(model, shots=args.shots) if model.shots else model
        fit, losses, data = fit_text_model(
            model, encoder, pairs, seed=args.seed, tuning=tuning, progress=_say, label_map=args.label_map
        )
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
