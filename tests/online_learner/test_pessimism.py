"""The pessimistic value: by hand, against a search of the ellipsoid, against autograd, and never above the truth too often."""

import math

import pytest
import torch
from scipy.stats import chi2

from online_learner.preference_models.heads import fit_heads
from online_learner.preference_models.pessimism import PlausibleUtilities, plausible_utilities
from online_learner.preference_models.plackett_luce import PLACKETT_LUCE, ranking_log_prob
from tests.online_learner.test_plackett_luce import encode, planted, rows

ZERO = torch.zeros(2)


def test_the_value_by_hand():
    # H = diag(4, 25), v = (2, 5): v H^-1 v = 4/4 + 25/25 = 2; mean 1 * 2 + 2 * 5 = 12
    plausible = PlausibleUtilities(
        weights=torch.tensor([1.0, 2.0]).double(), curvature=torch.diag(torch.tensor([4.0, 25.0])).double()
    )
    value = plausible.value(torch.tensor([2.0, 5.0]), ZERO)
    assert value["mean"] == pytest.approx(12)
    assert value["standard_error"] == pytest.approx(math.sqrt(2))
    assert value["pessimistic"] == pytest.approx(12 - math.sqrt(float(chi2.ppf(0.95, 2)) * 2))


def test_no_utility_of_the_ellipsoid_gives_less():
    curvature = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    plausible = PlausibleUtilities(weights=torch.tensor([0.5, -1.0]).double(), curvature=curvature)
    v = torch.tensor([1.0, 2.0])
    angle = torch.linspace(0, 2 * math.pi, 10_000, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    root = torch.linalg.cholesky(torch.linalg.inv(curvature))  # w = fitted + radius root z, |z| = 1, is the boundary
    boundary = plausible.weights[:, None] + math.sqrt(float(chi2.ppf(0.95, 2))) * root @ circle
    assert float((v.double() @ boundary).min()) == pytest.approx(plausible.value(v, ZERO)["pessimistic"], abs=1e-6)


def test_the_curvature_is_that_of_the_likelihood():
    """Autograd's second derivatives of pairs and of rankings of 3 and 4, one with a tie."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    single = {"prompt_id": "p", "response_a_id": "a", "response_b_id": "b", "verdict": "a", "ranking_id": None}
    data = encode([*rows(("c", "ab"), name="tied"), single, *rows(("d", "c", "b", "a"), name="four")])
    weights = torch.randn(3, generator=generator, dtype=torch.float64)
    ridge = 0.01

    def loss(w):
        utilities = features @ w
        assert data.rankings is not None
        pair = torch.nn.functional.logsigmoid(utilities[0] - utilities[1])
        return 400 * ridge * w.square().sum() - pair - ranking_log_prob(utilities[None], data.rankings).sum()

    expected = torch.autograd.functional.hessian(loss, weights)
    assert torch.allclose(plausible_utilities(weights, ridge, features, data).curvature, expected, atol=1e-10)


def test_flips_take_information_away():
    # At equal utilities a verdict has information 1/4; with flips e it is (1 - 2 e)^2 / 4: .36 / 4 at e = .2
    single = {"prompt_id": "p", "response_a_id": "a", "response_b_id": "b", "verdict": "a", "annotator_id": "x"}
    data = encode([single, single | {"annotator_id": "y"}])
    features = torch.tensor([[1.0], [0.0]])
    found = plausible_utilities(torch.zeros(1), 0.0, features, data, torch.tensor([0.0, 0.2, 0.0])).curvature
    assert float(found) == pytest.approx(0.25 * 0.36 + 0.25)


def test_the_ellipsoid_is_as_wide_as_planted_utilities_scatter():
    """(fitted - true) H (fitted - true) is chi-squared with 6 degrees of freedom: mean 6, standard error .77 over 20 draws."""
    distances = []
    for seed in range(20):
        by_id, truth, found = planted(seed, 100)
        features, data = torch.stack([by_id[name] for name in sorted(by_id)]), encode(found)
        ridge = torch.full((1, 1), 1e-5)
        fits = fit_heads(PLACKETT_LUCE, features, data, torch.ones(1, len(data)), ridge, torch.Generator().manual_seed(0))
        plausible = plausible_utilities(fits.model.weights[0, :, 0], 1e-5, features, data)
        off = plausible.weights - truth.double()
        distances.append(float(off @ plausible.curvature @ off))
        policy = features[torch.randint(len(features), (5,), generator=torch.Generator().manual_seed(seed))].mean(0)
        below = float((policy - features.mean(0)) @ truth) >= plausible.value(policy, features.mean(0))["pessimistic"]
        assert below or distances[-1] > float(chi2.ppf(0.95, 6))
    assert sum(distances) / 20 == pytest.approx(6, abs=2)
