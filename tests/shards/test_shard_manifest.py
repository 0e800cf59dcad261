"""The manifest opens without parsing per chunk, and every damage to it is noticed."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from shardkit import World, build_plan, flip_byte, make_world

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.seeding import PrngState
from foreshard.shards.columns import fixed_binary
from foreshard.shards.header import Header
from foreshard.shards.manifest import CHUNK_SCHEMA, INDEX_SCHEMA, SHARD_SCHEMA, LayoutRef, Manifest
from foreshard.shards.metadata import prng_states
from foreshard.shards.parts import write_part
from foreshard.shards.sealed import seal, unseal

VIEWS = (
    *("shard_of", "starts", "ends", "rows", "nodes", "splits", "groups", "seeds", "checksums", "access_counts"),
    *("scores", "chunk_of", "row_of"),
)


@pytest.fixture
def made(tmp_path) -> tuple[World, LayoutRef]:
    world = make_world(tmp_path)
    return world, world.make(build_plan(world.snapshot))


def big_manifest(chunks: int) -> tuple[Header, dict[str, pa.Buffer]]:
    count = np.arange(chunks)
    columns = [
        pa.array(np.zeros(chunks), field.type)
        if field.name != "seed"
        else fixed_binary(np.zeros((chunks, 16), np.uint8))
        for field in CHUNK_SCHEMA
    ]
    table = write_part(pa.RecordBatch.from_arrays(columns, schema=CHUNK_SCHEMA))
    samples = [pa.array(count, pa.int32()), pa.array(np.zeros(chunks), pa.int32())]
    index = write_part(pa.RecordBatch.from_arrays(samples, schema=INDEX_SCHEMA))
    schema = pa.schema([("sample_id", pa.int64())]).serialize().to_pybytes().hex()
    one = [fixed_binary(np.zeros((1, 32), np.uint8)), pa.array([1], pa.int64())]
    shards = write_part(pa.RecordBatch.from_arrays(one, schema=SHARD_SCHEMA))
    header = Header(
        "data", "r.e000001", "0" * 32, None, "0" * 32, "hash", 0, 1, chunks, chunks, 1, ("a",), schema, {}, {}
    )  # fmt: skip
    return header, {"manifest": table, "index": index, "shards": shards}


def test_opening_takes_no_memory_and_no_copy_per_chunk():
    header, parts = big_manifest(200_000)
    tracemalloc.start()
    manifest = Manifest(header, parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000, "one byte per chunk would be too much"
    for name in [
        "shard_of",
        "starts",
        "ends",
        "rows",
        "nodes",
        "splits",
        "groups",
        "seeds",
        "checksums",
        "access_counts",
        "scores",
        "chunk_of",
        "row_of",
    ]:
        view = getattr(manifest, name)
        source = parts["index" if name in ("chunk_of", "row_of") else "manifest"]
        address = view.__array_interface__["data"][0]
        assert source.address <= address < source.address + source.size, name
        assert len(view) == 200_000


def test_chunk_metadata_describe_the_shards(made):
    world, ref = made
    manifest = world.repository.open(ref)
    plan = world.repository.load_plan(ref)
    assert manifest.rows.tolist() == plan.chunks["rows"].to_pylist()
    assert manifest.nodes.tolist() == plan.chunks["node"].to_pylist()
    assert manifest.splits.tolist() == plan.chunks["split"].to_pylist()
    assert manifest.nbytes.tolist() == (manifest.ends - manifest.starts).tolist()
    assert manifest.schema.names == ["number", "label", "name", "sample_id"]
    assert manifest.ref == ref
    for chunk in range(len(manifest)):
        shard = world.store.get(manifest.shard_key(chunk))
        ids = manifest.decode(chunk, shard[manifest.starts[chunk] : manifest.ends[chunk]])["sample_id"].to_numpy()
        assert (manifest.chunk_of[ids] == chunk).all()
        assert manifest.row_of[ids].tolist() == list(range(len(ids)))


def test_header_survives_json(made):
    world, ref = made
    header = world.repository.header(ref)
    assert Header.from_json(header.to_json(), "key") == header
    manifest = world.repository.open(ref)
    assert header.shards == len(manifest.shards)
    assert [shard.key for shard in manifest.shards] == [
        world.repository.keys.shard(bytes(digest).hex()) for digest in manifest.shard_digests
    ]
    assert header.nodes == ("node-0", "node-1")


def test_a_header_naming_parts_outside_its_layout_is_refused(made):
    world, ref = made
    header = world.repository.header(ref)
    evil = replace(header, parts={**header.parts, "index": replace(header.parts["index"], name="../../../secret")})
    world.path(world.repository.keys.layout(ref.generation, ref.plan_digest, "manifest.json")).write_bytes(
        evil.to_json()
    )
    with pytest.raises(ConfigError, match=r"'\.\./\.\./\.\./secret'"):
        world.repository.open(ref)


def test_a_header_of_a_later_format_asks_for_an_upgrade(made):
    world, ref = made
    later = replace(world.repository.header(ref), format=3)
    with pytest.raises(CorruptDataError, match=r"format 3, this foreshard reads 2; upgrade"):
        Header.from_json(later.to_json(), "key")


@pytest.mark.parametrize("kind", ["manifest", "index", "shards"])
def test_one_flipped_bit_in_a_part_is_noticed(made, kind):
    world, ref = made
    key = world.repository.keys.layout(ref.generation, ref.plan_digest, world.repository.header(ref).parts[kind].name)
    flip_byte(world.path(key), 500)
    with pytest.raises(CorruptDataError, match=f"{kind}-.*does not match its digest"):
        world.repository.open(ref)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_missing_or_short_part_is_named(made, damage):
    world, ref = made
    name = world.repository.header(ref).parts["index"].name
    path = world.path(world.repository.keys.layout(ref.generation, ref.plan_digest, name))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptDataError, match=r"index-.*materialise"):
        world.repository.open(ref)


def test_every_flipped_byte_of_the_header_is_noticed(made):
    world, ref = made
    raw = world.repository.header(ref).to_json()
    for position in range(0, len(raw), 7):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        if json_value(bytes(damaged)) == json_value(raw):
            continue  # only the indentation changed
        with pytest.raises(CorruptDataError, match="'key'"):
            Header.from_json(bytes(damaged), "key")


def json_value(raw: bytes):
    try:
        return json.loads(raw)
    except ValueError:
        return None


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b'{"a": 1}', b'{"a": 1, "sha256": "0"}'])
def test_sealed_objects_that_are_not_sealed_are_refused(raw):
    with pytest.raises(CorruptDataError, match="'some/key'"):
        unseal(raw, "some/key")


def test_a_sealed_object_gives_its_body_back():
    body = {"b": [1.5, None], "a": {"x": "ü"}}
    assert unseal(seal(body), "k") == body


def test_prng_states_are_what_the_library_itself_would_write():
    seeds = np.arange(48, dtype=np.uint8).reshape(3, 16)
    states = prng_states(seeds, np.array([10, 4096, 10], np.int32)).to_pylist()
    expected = [PrngState(seeds[i].tobytes(), n) for i, n in enumerate([10, 4096, 10])]
    assert [PrngState.from_json(json.loads(state)) for state in states] == expected
    assert [json.loads(state) for state in states] == [state.to_json() for state in expected]
