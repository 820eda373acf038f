"""What report.json of an artifact says. TypedDicts: the keys are the contract, the learner fills them, the console draws them."""

from typing import Any, TypedDict


class Interval(TypedDict):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


class Example(TypedDict):
    """One held-out prompt answered before and after."""

    prompt: str
    before: str
    after: str


class RoundReport(TypedDict, total=False):
    """report.json of a round. Sections are named after the stages; absent keys were not measured."""

    kind: str  # round | fit | generate | evaluate
    number: int
    status: str  # passed | failed (a limit was left: see reasons)
    reasons: list[str]  # sentences, empty when passed
    picked: dict[str, Any]  # rule, step_size, kl_coef, learning_rate, device, ...: what ran after `auto`
    picked_why: dict[str, str]  # one sentence for each automatic choice
    data: dict[str, Any]  # num_prompts, num_responses, num_judgments, verdicts {a, b, tie, ...}, num_annotators
    preference: dict[str, Any]  # models {name: {log_loss, accuracy, ece, brier}}, selected, temperature, reliability, ...
    audit: dict[str, Any]  # cyclic: true | false | null, sentence, p_value, labels_per_pair_needed, votes, circle, ...
    update: dict[str, Any]  # loss, train_r2, heldout_r2, achieved_fraction, anchors {policy_id: coefficient}
    evaluation: dict[str, Any]  # win_rate_vs_parent, win_rate_vs_base, length_controlled_vs_parent: Interval;
    # kl_to_parent_nats, kl_to_base_nats: Interval; text_quality: float | null; mean_tokens {parent, policy};
    # restricted_duality_gap {value, search_set}; value_vs_base {mean, standard_error, pessimistic} of a model of utilities
    meaning: dict[str, str]  # what a figure of update or evaluation means, one sentence by name
    examples: list[Example]
    auxiliary: dict[str, float]  # the auxiliary mixture that belongs to the new policy, for the next round
    new_policy: str
    seconds: dict[str, float]  # per stage
    versions: dict[str, str]
