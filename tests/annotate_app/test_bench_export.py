"""The bench of large campaigns, on a small one: what it writes is sound, what it times is there."""

import pyarrow.parquet as pq
import pytest

from annotate_app.bench_export import OVERLAP, measure, write_campaign
from annotate_app.server import DATABASE
from storage.doctor import examine
from storage.duckdb_store import open_store
from storage.exports import write_export


def test_the_campaign_it_writes_is_one_the_product_could_have_made(tmp_path):
    write_campaign(tmp_path / DATABASE, judgments=600, responses=400, response_bytes=200)
    assert [check for check in examine(tmp_path / DATABASE) if not check.ok] == []
    store = open_store(tmp_path / DATABASE)
    made = store.query("SELECT task_id, count(*) AS n, count(DISTINCT annotator_id) AS people FROM judgments GROUP BY task_id")
    assert {(row["n"], row["people"]) for row in made.to_pylist()} == {(OVERLAP, OVERLAP)}
    unlike = "SELECT count(*) AS n FROM all_judgments WHERE length(response_a) <> 200 OR response_a_id = response_b_id"
    assert store.query(unlike)["n"].to_pylist() == [0]
    assert write_export(store, "raw", tmp_path / "raw.parquet") == 600
    assert pq.read_metadata(tmp_path / "raw.parquet").num_rows == 600
    store.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_judgments_stay_within_their_limits():
    """Wall time needs a machine with two cores to itself; memory does not."""
    measured = measure(judgments=1_000_000, responses=400_000, response_bytes=1350)
    print(measured)
    assert measured["memory_bytes"] <= 1.5e9
    assert measured["start_s"] <= 5
    assert measured["next_pair_ms"]["p95"] <= 50
    assert measured["overview_s"] <= 1
    assert measured["export_s"] <= 30
