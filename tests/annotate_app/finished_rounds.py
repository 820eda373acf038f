"""A round that has finished, without a learner: its record, its policy and a report.json with every section."""

import json

from annotate_app.context import AppContext
from storage.contract.jobs import artifact_dir
from storage.contract.settings import build_settings
from storage.records import Round
from tests.storage.builders import START, make_policy

HOSTILE = '<img src="http://evil.example/x.png" onerror=alert(1)><script>alert(2)</script>'
REPORT = {
    "kind": "round",
    "status": "passed",
    "reasons": [],
    "picked": {"rule": "onpo_ref", "step_size": 5.0},
    "picked_why": {"step_size": "automatic: the audit did not find cycles"},
    "data": {
        "num_judgments": 400,
        "verdicts": {"a": 210, "b": 190},
        "num_annotators": 1,
        "num_prompts": 128,
        "num_responses": 512,
    },
    "preference": {
        "models": {"bradley_terry": {"log_loss": 0.45, "accuracy": 0.84}, "bt_gpm": {"log_loss": 0.44, "accuracy": 0.85}},
        "selected": "bradley_terry",
        "num_decided": 400,
        "position_bias": 0.0,
        "reliability": [[0.55, 0.5, 100], [0.9, 0.92, 100]],
        "annotator_flips": {"ann0": 0.02},
    },
    "audit": {
        "cyclic": True,
        "sentence": "These preferences contain cycles.",
        "votes": {
            "hodge": {
                "residual_share": 0.5,
                "null_mean": 0.3,
                "p_value": 0.01,
                "local_share": 1.0,
                "sentence": "More than chance.",
            },
            "triads": {"sentence": "By majority, 5 of 9 triads are circular."},
            "curl": {"num_triangles": 9, "num_significant": 2, "largest_z": 3.1},
        },
        "circle": {"responses": ["q0-1", "q0-2", "q1-1"], "probabilities": [0.8, 0.7, 0.6]},
    },
    "evaluation": {
        "win_rate_vs_parent": {"mean": 0.7, "low": 0.65, "high": 0.75},
        "length_controlled_vs_parent": {"mean": 0.68, "low": 0.62, "high": 0.74},
        "win_rate_vs_base": {"mean": 0.7, "low": 0.65, "high": 0.75},
        "kl_to_parent_nats": {"mean": 0.8, "low": 0.7, "high": 0.9},
        "text_quality": 0.9,
        "mean_tokens": {"parent": 40.0, "policy": 48.0},
        "restricted_duality_gap": {"value": 0.2, "search_set": "the samples of three policies"},
    },
    "update": {"achieved_fraction": 0.98, "heldout_r2": 0.6, "anchors": {"policy0": 1.0}},
    "meaning": {"heldout_r2": "It carries over."},
    "examples": [{"prompt": f"How? {HOSTILE}", "before": "Put it | in water", "after": f"**Boil** it. {HOSTILE}"}],
    "seconds": {"update": 40.0},
}


def add_finished_round(context: AppContext, number: int = 1, **changes) -> Round:
    """Round ``number`` from policy 0 to policy ``number``; ``changes`` replace sections of the report."""
    round_ = Round(
        id=f"round{number}",
        number=number,
        kind="round",
        parent_policy_id="policy0",
        new_policy_id=f"policy{number}",
        job_dir=f"jobs/{number:04d}-round",
        settings={**build_settings({}).model_dump(mode="json"), "options": {}},
        created_at=START,
    )
    context.store.add_round(round_)
    context.store.add_policy(make_policy(number, parent_id="policy0", round_id=round_.id))
    context.store.append_event(actor="system", kind="round.done", subject=round_.id)
    directory = artifact_dir(context.data_dir / round_.job_dir)
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(json.dumps({**REPORT, "number": number, **changes}))
    return round_
