import json
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "online_learner", "bench-learner"]


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "pairs"), [("pairs", 16), ("all-pairs", 24)])
def test_both_sides_of_the_comparison_have_the_same_losses_and_gradients(case, pairs):
    """TRL's losses and gradient norms, of every optimiser step from the same start, within 1e-4 of ours: the same work."""
    pytest.importorskip("trl")
    prompts = {"pairs": "16", "all-pairs": "4"}[case]
    ran = bench("--case", case, "--model", "tiny", "--prompts", prompts, "--length", "40", "--repeats", "1", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["pairs"] == pairs  # 16 x 1, 4 x 6
    assert len(found["ours"]["losses"]) == len(found["trl"]["losses"]) == 2  # 8 pairs a step; 2 prompts a step
    assert found["largest_loss_difference"] < 1e-4
    assert found["largest_gradient_norm_difference"] < 1e-4
    assert found["trl"]["losses"][0] != found["trl"]["losses"][1]
    assert found["times_faster"] == pytest.approx(found["trl"]["seconds"] / found["ours"]["seconds"])
    assert found["ours"]["peak_mib"] > found["ours"]["run_mib"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--prompts", "0"], "--prompts must be at least 1, got 0"),
        (["--model", "tiny", "--length", "400"], "the tiny policy reads 512"),
    ],
)
def test_work_that_cannot_be_done_is_refused_in_words(options, words):
    ran = bench(*options)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
