"""``nashloop bench label`` on the real app; no time is asserted."""

import pytest

from annotate_app.bench_label import _quantile, measure


def test_every_client_is_served_and_every_judgment_counted_once():
    result = measure(clients=3, labels=10, response_bytes=400)
    assert result["labels"] == 12  # 4 by each of 3 clients: the smallest equal share that makes 10
    assert result["labels_per_second"] == pytest.approx(12 / result["seconds"])
    latency = result["lease_and_submit_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]


def test_quantiles_by_hand():
    assert [_quantile([4.0, 1.0, 3.0, 2.0], q) for q in (0.25, 0.5, 0.51, 0.99)] == [1.0, 2.0, 3.0, 4.0]
