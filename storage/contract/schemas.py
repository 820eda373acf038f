"""Columns of the Parquet files in job and artifact directories (DESIGN 3). The one place that names them.

Job directory:      manifest.json config.toml lineage.json prompts.parquet responses.parquet judgments.parquet
Artifact directory: manifest.json report.json metrics.jsonl responses.parquet pair_scores.parquet adapter/ preference_model/
"""

import pyarrow as pa

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("split", pa.string()),  # train | heldout | imported (only judged elsewhere: neither trained on nor sampled)
        ("source", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)

RESPONSES = pa.schema(
    [
        ("response_id", pa.string()),
        ("prompt_id", pa.string()),
        ("policy_id", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),  # response tokens with the end token if it was sampled; null if imported
        ("sum_logp", pa.float64()),  # nats under the policy that sampled it, temperature 1; null if imported
        ("finish_reason", pa.string()),  # stop | length | imported
        ("sampler", pa.string()),  # JSON: temperature, top_p, max_new_tokens
        ("seed", pa.int64()),
        ("role", pa.string()),  # candidate (may be labelled) | gate (held-out evaluation samples) | demonstration (a person's)
    ]
)

JUDGMENTS = pa.schema(
    [
        ("judgment_id", pa.string()),
        ("prompt_id", pa.string()),
        ("response_a_id", pa.string()),  # a is the response shown first
        ("response_b_id", pa.string()),
        ("verdict", pa.string()),  # a | b | tie | both_bad | skip
        ("strength", pa.int8()),  # 0-3, null when not given
        ("rationale", pa.string()),  # the annotator's reason in words, null when not given
        ("aspects", pa.string()),  # JSON: aspect -> rating, above 0 where a is better in it, below 0 where b is; null or {}
        ("annotator_id", pa.string()),
        ("purpose", pa.string()),  # label | audit | gold | repeat | gate
        ("selection_rule", pa.string()),
        ("selection_prob", pa.float64()),
        ("submitted_at", pa.timestamp("us", tz="UTC")),
        ("ranking_id", pa.string()),  # pairs of one ranking share it; null for a pair that was judged by itself
    ]
)

PAIR_SCORES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("response_1_id", pa.string()),
        ("response_2_id", pa.string()),
        ("mean_logit", pa.float64()),  # log odds that response 1 is preferred, calibrated
        ("ensemble_logits", pa.list_(pa.float64())),
    ]
)
