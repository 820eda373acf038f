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


def test_the_floor_counts_each_prompt_once_and_the_way_back_as_one_product():
    """10 and 6 prompt tokens, 20 of responses, layers of 100 weights and a head of 50: 2 (100 (16 + 20) + 50 x 20) a product."""
    from online_learner.bench_learner_curves import operations
    from online_learner.bench_learner_work import Work

    work = Work(
        case="online-step", model="tiny", prompts=[[5] * 10, [5] * 6], responses=[], num_responses=2, prompts_per_step=2,
        max_new_tokens=10, learning_rate=1e-3, threads=1,
    )  # fmt: skip
    assert operations(work, 20, (100, 50)) == {"sample": 9200, "anchors": 9200, "update": 18400}


@pytest.mark.slow
def test_the_curves_show_a_round_that_grows_with_its_size(tmp_path):
    ran = bench("--model", "tiny", "--repeats", "1", "--curves", str(tmp_path / "cost.png"), "--json")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "cost.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads(ran.stdout)
    spent = {(p["prompts"], p["responses"], p["length"]): sum(p["phases"].values()) for p in found["points"]}
    assert spent[16, 4, 32] > spent[4, 4, 32]
    assert spent[8, 4, 64] > spent[8, 4, 16]
    for point in found["points"]:
        assert sum(point["operations"].values()) / found["products_per_second"] < sum(point["phases"].values())  # it is a floor


def test_a_picture_is_refused_where_it_cannot_be_written(tmp_path):
    ran = bench("--curves", str(tmp_path / "nowhere" / "cost.png"))
    assert ran.returncode == 2 and "name a .png file in a folder that exists" in ran.stderr
