import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from online_learner.logps import TokenisedResponse, response_logps
from online_learner.policy.adapters import TrainedAdapter
from online_learner.policy.groups import Group, Groups, collate
from online_learner.policy.memory import activation_bytes, free_bytes, plan_memory
from online_learner.policy.objective import Objective
from online_learner.policy.step import Room, add_gradient, group_logps, group_sizes
from online_learner.update_rule import RuleSettings
from online_learner.update_rules import get_rule
from storage.errors import UserError

VOCAB, K = 60, 4
SETTINGS = RuleSettings(step_size=4.0, kl_coef=0.05)


def adapter() -> TrainedAdapter:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    found = TrainedAdapter(LlamaForCausalLM(config).eval().requires_grad_(False), rank=4, alpha=8, parent=None, seed=0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    return found


def material(num_groups: int = 6) -> tuple[Groups, torch.Tensor]:
    """Groups of four responses of 2 to 20 tokens, soft preferences, anchors a little off."""
    generator = torch.Generator().manual_seed(2)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(VOCAB, (length,), generator=generator).tolist())

    groups, sequences = [], {}
    for n in range(num_groups):
        prompt, names = ids(3, 9), [f"{n}/{k}" for k in range(K)]
        logits = torch.randn(K, K, generator=generator)
        weights = torch.rand(K, K, generator=generator).triu(1)
        preferences = torch.sigmoid(logits - logits.T)
        groups.append(Group(prompt_id=str(n), response_ids=names, preferences=preferences, weights=weights))
        sequences |= {name: TokenisedResponse(prompt, ids(2, 21)) for name in names}
    return collate(groups, sequences), torch.randn(num_groups, K, generator=generator) - 40


def gradients(rule: str, room: int) -> tuple[float, list[torch.Tensor]]:
    trained = adapter()
    groups, anchors = material()
    objective = Objective(rule=get_rule(rule), settings=SETTINGS)
    loss = add_gradient(trained.model, objective, groups, anchors, Room(room))
    return loss, [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]


def plain(rule: str) -> tuple[float, list[torch.Tensor]]:
    """All groups at once, through autograd."""
    trained = adapter()
    groups, anchors = material()
    objective = Objective(rule=get_rule(rule), settings=SETTINGS)
    loss = objective.loss(groups, group_logps(trained.model, groups), anchors)
    return float(loss.detach()), list(torch.autograd.grad(loss, trained.parameters()))


@pytest.mark.parametrize("rule", ["onpo_ref", "dpo", "rpo"])
@pytest.mark.parametrize("room", [1, 60, 150, 10**6])
def test_a_step_taken_in_parts_has_the_loss_and_the_gradient_of_the_whole(rule, room):
    """Room for one response, some of a group's, two groups, all; one rule has an extra term that is a mean over a step."""
    assert min(group_sizes(material()[0])) > 60 / 2
    expected, wanted = plain(rule)
    loss, found = gradients(rule, room)
    assert loss == pytest.approx(expected, rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-5 * scale)


def test_a_gradient_is_added_to_what_is_there():
    trained, (groups, anchors) = adapter(), material()
    objective = Objective(rule=get_rule("onpo_ref"), settings=SETTINGS)
    for _ in range(2):
        add_gradient(trained.model, objective, groups, anchors, Room(10**6))
    _, once = gradients("onpo_ref", 10**6)
    for parameter, single in zip(trained.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * single)


LIMITED = """
import resource, sys, torch
from pathlib import Path
from tests.online_learner import test_update_step as t
torch.set_num_threads(1)
trained, (groups, anchors) = t.adapter(), t.material(160)
objective = t.Objective(rule=t.get_rule("rpo"), settings=t.SETTINGS)
small, small_anchors = groups.select(range(2)), anchors[:2]
t.add_gradient(trained.model, objective, small, small_anchors, t.Room(10**6))  # libraries take their own memory first
for parameter in trained.parameters(): parameter.grad = None
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 24 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
room = t.Room(10**6)
loss = t.add_gradient(trained.model, objective, groups, anchors, room)
print(loss, room.tokens, float(torch.cat([p.grad.flatten() for p in trained.parameters()]).norm()))
"""


@pytest.mark.slow
def test_where_memory_runs_out_the_step_goes_on_with_less_room():
    """A process that may take 24 MiB more, for a step whose activations need more: same loss and gradient, smaller parts."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("limits of memory are set as Linux has them")
    code = LIMITED.replace("from tests.online_learner import test_update_step as t", _import_this_file())
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    loss, tokens, norm = map(float, ran.stdout.split())
    trained, (groups, anchors) = adapter(), material(160)
    whole = Objective(rule=get_rule("rpo"), settings=SETTINGS).loss(groups, group_logps(trained.model, groups), anchors)
    whole.backward()
    expected = torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None]).norm()
    assert tokens < 10**6
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    assert norm == pytest.approx(float(expected), rel=1e-4)


def _import_this_file() -> str:
    lines = ["import importlib.util as u", f"spec = u.spec_from_file_location('t', {__file__!r})"]
    return "\n".join([*lines, "t = u.module_from_spec(spec)", "spec.loader.exec_module(t)"])


def test_where_not_even_one_response_fits_the_error_says_what_to_do():
    room = Room(1)
    with pytest.raises(UserError, match="does not fit into memory even with one response at a time"):
        room.halve(MemoryError())


def test_activations_by_token_are_what_autograd_keeps():
    """Twice the layers keep more, but not twice as much (embedding and head keep too); the figure is per token."""
    trained, (groups, _) = adapter(), material(40)
    few, many = activation_bytes(trained.model, groups.sequences[:8]), activation_bytes(trained.model, groups.sequences[:40])
    assert few == pytest.approx(many, rel=0.25)
    hidden, inner, layers = 32, 48, 2
    least = 4 * layers * (6 * hidden + 3 * inner)  # inputs of the seven linear layers and of the gate's product, float32
    assert least < many < 8 * least


def test_the_plan_fits_the_free_memory_and_says_so():
    trained, (groups, _) = adapter(), material()
    plan = plan_memory(trained.model, groups)
    trained_numbers = sum(parameter.numel() for parameter in trained.parameters())
    assert plan.adapter == 4 * 4 * trained_numbers  # float32 weight, gradient and two moments
    assert plan.weights == 4 * sum(p.numel() for p in trained.model.parameters() if not p.requires_grad)
    assert 0 < plan.adapter + plan.tokens * plan.per_token <= free_bytes(torch.device("cpu")) * 1.2
    assert plan.largest_group == max(sum(groups.sequences[row].length for row in rows) for rows in groups.members.tolist())
    assert f"{plan.tokens} tokens" in plan.sentence()


def test_planning_leaves_no_gradient_behind():
    trained, (groups, _) = adapter(), material()
    with torch.no_grad():
        before = response_logps(trained.model, groups.sequences)
    plan_memory(trained.model, groups)
    with torch.no_grad():
        torch.testing.assert_close(response_logps(trained.model, groups.sequences), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in trained.parameters())
