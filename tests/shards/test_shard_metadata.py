"""Consistency metadata: what each chunk's seed follows from is recorded with it."""

import numpy as np
import pyarrow as pa
import pytest

from foreshard.errors import CorruptDataError
from foreshard.seeding import Origin
from foreshard.shards.metadata import CONSISTENCY_SCHEMA, consistency_origins, consistency_table

ORIGINS = [Origin("ab" * 16, "hotness", 7), Origin("cd" * 16, "contiguous", -(2**70)), Origin("cd" * 16, "hotness", 7)]


def table():
    return consistency_table(
        content_ids=np.arange(64, dtype=np.uint8).reshape(4, 16),
        seeds=np.arange(64, dtype=np.uint8).reshape(4, 16),
        orders=np.zeros((4, 32), np.uint8),
        groups=np.zeros(4, np.int32),
        nodes=np.zeros(4, np.int32),
        rows=np.array([10, 5, 10, 1], np.int32),
        origin=np.array([2, 1, 0, 1], np.int16),
        origins=ORIGINS,
        about={"plan_digest": "ef" * 16},
    )


def test_every_chunk_names_its_origin_and_the_origins_strategy():
    found = table()
    assert found.schema.remove_metadata() == CONSISTENCY_SCHEMA
    assert found.schema.metadata[b"plan_digest"] == b"ef" * 16
    assert consistency_origins(found) == tuple(ORIGINS)
    assert found.column("origin").to_pylist() == [2, 1, 0, 1]
    assert found.column("strategy").to_pylist() == ["hotness", "contiguous", "hotness", "contiguous"]


@pytest.mark.parametrize("text", [None, b"{", b"7", b"[{}]", b"[1]"])
def test_metadata_without_a_list_of_origins_are_refused(text):
    broken = table().replace_schema_metadata(text and {b"origins": text})
    with pytest.raises(CorruptDataError, match="which is no list of origins; rebuild the layout"):
        consistency_origins(broken)


def test_a_table_of_no_chunk_has_its_columns():
    empty = {
        name: np.zeros((0, width), np.uint8) for name, width in (("content_ids", 16), ("seeds", 16), ("orders", 32))
    }
    counts = {name: np.zeros(0, np.int32) for name in ("groups", "nodes", "rows")}
    found = consistency_table(**empty, **counts, origin=np.zeros(0, np.int16), origins=[], about={})
    assert isinstance(found, pa.RecordBatch)
    assert (found.num_rows, consistency_origins(found)) == (0, ())
