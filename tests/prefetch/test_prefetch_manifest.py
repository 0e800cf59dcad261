"""The prefetch manifest: what is read most per byte first, only the node's train chunks, pinned within the budget."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "loader"))
from layouts import make_dataset, publish

from foreshard.errors import ConfigError, CorruptDataError, ObjectNotFoundError
from foreshard.prefetch.manifest import (
    PIN_ALL,
    PREFETCH_SCHEMA,
    Advice,
    advice_of,
    build_prefetch,
    prefetch_key,
    read_prefetch,
    write_prefetch,
)
from foreshard.splits import split_code


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("advice"), 500)
    publish(data, 0, seed=1)
    return data


@pytest.fixture(scope="module")
def manifest(dataset):
    return dataset.repository.open()


@pytest.fixture(scope="module")
def forecast(manifest):
    rng = np.random.default_rng(3)
    chunks = rng.permutation(len(manifest)).astype(np.int32)
    expected = rng.integers(0, 5, len(manifest)).astype(np.float64)
    return pa.table(
        {
            "chunk": chunks,
            "expected": expected,
            "probability": 1 - np.exp(-expected),
            "first_phase": (chunks % 4).astype(np.int16),
        }
    )


@pytest.mark.parametrize("node", [0, 1, 2])
def test_each_node_gets_its_train_chunks_by_expected_use_per_byte(manifest, forecast, node):
    budget = 5000
    table = build_prefetch(manifest, forecast, node, budget)
    assert table.schema == PREFETCH_SCHEMA
    chunks = table.column("chunk").to_numpy()
    mine = np.flatnonzero((manifest.nodes == node) & (manifest.splits == split_code("train")))
    assert sorted(chunks) == mine.tolist()
    assert table.column("order").to_pylist() == list(range(len(chunks)))
    expected = dict(zip(forecast.column("chunk").to_pylist(), forecast.column("expected").to_pylist(), strict=True))
    assert table.column("expected").to_pylist() == [expected[c] for c in chunks]
    assert table.column("first_phase").to_pylist() == [c % 4 for c in chunks]
    density = np.array([expected[c] for c in chunks]) / manifest.nbytes[chunks]
    assert (np.diff(density) <= 0).all()
    pinned = table.column("pinned").to_numpy()
    held = manifest.nbytes[chunks[pinned]].sum()
    assert 0 < held <= budget
    assert pinned[: pinned.sum()].all()  # the best ones
    following = pinned.sum()
    assert density[following] == 0 or held + manifest.nbytes[chunks[following]] > budget
    for row in table.slice(0, 3).to_pylist():
        assert row["shard"] == manifest.shard_key(row["chunk"])
        assert (row["start"], row["end"]) == (manifest.starts[row["chunk"]], manifest.ends[row["chunk"]])


def test_nothing_is_pinned_that_nobody_is_expected_to_read(manifest, forecast):
    none = forecast.set_column(1, "expected", pa.array(np.zeros(len(manifest))))
    assert not any(build_prefetch(manifest, none, 0, 10**9).column("pinned").to_pylist())


def test_an_unknown_node_is_refused(manifest, forecast):
    for node in (-1, 3):
        with pytest.raises(ConfigError, match=f"node {node} is not one of the layout's 3 nodes"):
            build_prefetch(manifest, forecast, node, 100)


def test_a_manifest_comes_back_as_written_and_damage_is_told_by_key(dataset, manifest, forecast):
    store, keys = dataset.repository.store, dataset.repository.keys
    table = build_prefetch(manifest, forecast, 1, 5000)
    key = write_prefetch(store, keys, manifest.ref, "node1", table)
    assert key == prefetch_key(keys, manifest.ref, "node1")
    assert read_prefetch(store, keys, manifest.ref, "node1").equals(table)
    with pytest.raises(ObjectNotFoundError, match="node2"):
        read_prefetch(store, keys, manifest.ref, "node2")
    raw = store.get(key)
    other = pa.BufferOutputStream()
    with pa.ipc.new_file(other, pa.schema([("chunk", pa.int32())])) as writer:
        writer.write_table(pa.table({"chunk": pa.array([1], pa.int32())}))
    for damaged in (b"", raw[: len(raw) // 2], b"nonsense" * 40, other.getvalue().to_pybytes()):
        store.put(key, damaged)
        with pytest.raises(CorruptDataError, match=r"prefetch manifest .*node1.arrow"):
            read_prefetch(store, keys, manifest.ref, "node1")


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.75, 1.0])
def test_no_more_is_pinned_than_the_policys_share_of_the_budget(dataset, manifest, forecast, fraction):
    advice = Advice(f"hybrid-{fraction:g}", fraction, "drift")
    table = build_prefetch(manifest, forecast, 1, 5000, advice)
    pinned = table.column("pinned").to_numpy()
    assert pinned.tolist() == build_prefetch(manifest, forecast, 1, int(5000 * fraction)).column("pinned").to_pylist()
    assert pinned.any() == (fraction > 0)
    store, keys = dataset.repository.store, dataset.repository.keys
    write_prefetch(store, keys, manifest.ref, "node1", table)
    read = read_prefetch(store, keys, manifest.ref, "node1")
    assert read.equals(table)
    assert advice_of(read) == advice
    assert read.schema.metadata[b"policy"] == advice.policy.encode()


def test_a_manifest_without_metadata_pins_all_as_before(manifest, forecast):
    table = build_prefetch(manifest, forecast, 1, 5000)
    assert table.schema.metadata is None
    assert advice_of(table) == PIN_ALL
    assert PIN_ALL.forecast_decides
    assert [Advice(*fields).forecast_decides for fields in (("lru", 0.0, "drift"), ("keep", 1.0, "uniform"))] == [
        False
    ] * 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"policy": "pin"},
        {"policy": "pin", "pin_fraction": "most", "regime": "drift"},
        {"policy": "pin", "pin_fraction": "1.5", "regime": "drift"},
        {"policy": "pin", "pin_fraction": "nan", "regime": "drift"},
    ],
)
def test_damaged_metadata_is_named(manifest, forecast, metadata):
    table = build_prefetch(manifest, forecast, 1, 5000).replace_schema_metadata(metadata)
    with pytest.raises(CorruptDataError, match="make it again"):
        advice_of(table)
