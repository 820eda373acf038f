import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from online_learner.policy.lora_linear import speed_up


class TwoLayers(nn.Module):
    """Linear layers with and without a bias, and something between them that has a gradient of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 4)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def adapted(**options):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False, **options)
    return get_peft_model(TwoLayers(), config).eval()


def value_and_gradients(model, x):
    loss = model(x).square().sum()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("shape", [(7, 6), (3, 7, 6)])
def test_the_fast_layer_has_the_value_and_the_gradients_of_pefts(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain, fast = adapted(), adapted()
    speed_up(fast)
    assert [m for m in fast.modules() if "forward" in vars(m) and hasattr(m, "base_layer")], "no layer was made fast"
    expected, gradients = value_and_gradients(plain, x)
    found, fast_gradients = value_and_gradients(fast, x)
    torch.testing.assert_close(found, expected)
    assert fast_gradients.keys() == gradients.keys() and len(gradients) == 4
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient)


def test_a_layer_with_dropout_stays_pefts():
    model = adapted(lora_dropout=0.5)
    speed_up(model)
    assert not [m for m in model.modules() if "forward" in vars(m) and hasattr(m, "base_layer")]
