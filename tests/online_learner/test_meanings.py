import pytest

from online_learner.meanings import meanings

EVALUATION = {"kl_to_parent_nats": {"mean": 0.7}, "text_quality": 0.9}
LIMITS = {"max_kl_nats": 6.0, "min_text_quality": 0.6}
SQUARE = {"train_r2": 0.6, "heldout_r2": 0.4, "train_achieved_fraction": 0.5, "train_potential_fraction": 0.8}


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({}, "achieved_fraction", "80% of the part of the step that a policy can reach; at 100 %"),
        ({"train_potential_fraction": 0.2}, "achieved_fraction", "too little. Train for more epochs, or lower step_size."),
        ({"train_potential_fraction": 1.3}, "achieved_fraction", "over-fitted or too fast"),
        ({"train_potential_fraction": None}, "achieved_fraction", "50% of their targets"),
        ({"train_r2": 0.05, "heldout_r2": 0.33}, "train_r2", "garbled responses dominate"),
        ({"heldout_r2": -0.2}, "heldout_r2", "worse than not moving"),
        ({}, "heldout_r2", "40% of the squared target margins on prompts it never saw"),
        ({}, "kl_to_parent_nats", "Above 6 nats the round fails"),
        ({}, "text_quality", "Below 60%"),
    ],
)
def test_every_figure_is_put_into_words(changed, name, words):
    assert words in meanings({**SQUARE, **changed}, EVALUATION, **LIMITS)[name]


def test_what_was_not_measured_is_not_explained():
    """A logistic rule has no target margins, and most models ship no list of known sentences."""
    said = meanings({"train_r2": None, "train_achieved_fraction": None}, EVALUATION | {"text_quality": None}, **LIMITS)
    assert list(said) == ["kl_to_parent_nats"]


@pytest.mark.parametrize(
    ("pessimistic", "words"), [(0.4, "+0.40 logits above the base and no less: it is better"), (-0.2, "rule out")]
)
def test_a_pessimistic_value_says_what_the_judgments_allow(pessimistic, words):
    value = {"mean": 1.0, "standard_error": 0.1, "pessimistic": pessimistic}
    assert words in meanings({**SQUARE}, EVALUATION | {"value_vs_base": value}, **LIMITS)["value_vs_base"]
