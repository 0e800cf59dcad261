"""Commands that only look: status, history, inspect and diff say what is there, and change nothing."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import FIRST, SECOND, Place, make_place, run, write_config
from shardkit import build_plan, sample_table

from foreshard.shards.compare import compare_layouts, compare_splits
from foreshard.shards.reading import read_chunks
from foreshard.source import take_snapshot
from foreshard.splits import assign_splits


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """Three layouts in a local folder; these tests change nothing."""
    return make_place(tmp_path_factory.mktemp("look"))


def chunk_sets(place: Place, ref) -> dict[frozenset, int]:
    """Return the chunk of every set of samples, from the rows themselves."""
    manifest = place.repository.open(ref)
    batches = read_chunks(place.world.store, manifest, np.arange(len(manifest)))
    return {frozenset(batch.column("sample_id").to_pylist()): chunk for chunk, batch in enumerate(batches)}


# -- which dataset and which layout --------------------------------------------------------------------


def test_commands_read_the_configuration_or_name_the_store(place, tmp_path):
    path = write_config(tmp_path, place)
    for command in (["status"], ["history"], ["inspect"], ["verify"], ["diff", FIRST], ["gc"]):
        named, configured = place.run(*command), run(*command, "--config", str(path))
        assert named.exit_code == configured.exit_code == 0, configured.output
        assert named.stdout == configured.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "--config", "nowhere.yaml"], ["nowhere.yaml", "--store"]),
        (["status", "--store", "file:nowhere"], ["--dataset"]),
        (["status", "--endpoint", "http://127.0.0.1:1"], ["--store"]),
        (["status", "--store", "file:nowhere", "--dataset", "data"], ["nowhere"]),
        (["status", "--store", "ftp://x", "--dataset", "data"], ["ftp://x"]),
    ],
)
def test_a_wrong_place_is_an_error_of_one_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in told)
    assert list(tmp_path.iterdir()) == []  # a store that is only looked at is not made


def test_a_layout_is_named_by_generation_and_the_beginning_of_its_digest(place):
    assert place.json("inspect")["layout"] == str(place.second)
    assert place.json("inspect", FIRST)["layout"] == str(place.first)
    for ref in (place.second, place.rival):
        assert place.json("inspect", f"{SECOND}/{ref.plan_digest[:12]}")["layout"] == str(ref)


@pytest.mark.parametrize(
    ("name", "told"),
    [("demo", "demo.e000004"), ("demo.e000008", FIRST), (f"{FIRST}/zz", "'zz'"), (SECOND, "names 2 layouts")],
)
def test_a_layout_that_is_not_there_or_not_told_apart_is_an_error_with_those_there_are(place, name, told):
    result = place.run("inspect", name)
    assert result.exit_code == 1
    assert told in result.stderr
    if name == SECOND:
        assert str(place.second) in result.stderr
        assert str(place.rival) in result.stderr


def test_a_dataset_without_layouts_is_told_so(place):
    options = ["--store", place.world.store.url, "--dataset", "other"]
    assert "no layouts yet" in run("status", *options).stdout
    assert "nothing was published" in run("history", *options).stdout
    result = run("verify", *options)
    assert result.exit_code == 1
    assert "no current layout" in result.stderr


# -- status and history --------------------------------------------------------------------------------


def test_status_shows_every_layout_with_its_figures(place):
    found = {row["layout"]: row for row in place.json("status")}
    assert set(found) == {str(ref) for ref in (place.first, place.second, place.rival)}
    assert [name for name, row in found.items() if row["current"]] == [str(place.second)]
    for ref in (place.first, place.second, place.rival):
        manifest, row = place.repository.open(ref), found[str(ref)]
        assert (row["rows"], row["chunks"], row["shards"]) == (300, len(manifest), len(manifest.shards))
        assert row["bytes"] == sum(len(place.world.store.get(shard.key)) for shard in manifest.shards)
    assert found[str(place.second)]["parent"] == str(place.first)
    table = place.run("status").stdout
    assert [line.split()[0] for line in table.splitlines() if "demo.e" in line[:10]] == [
        f"{ref.generation}/{ref.plan_digest[:8]}"
        for ref in (place.first, *sorted([place.second, place.rival], key=lambda ref: ref.plan_digest))
    ]


def test_status_reads_neither_chunk_tables_nor_sample_indexes(tmp_path):
    place = make_place(tmp_path)
    for meta in place.world.store.list("data/layouts/"):
        if meta.key.rpartition("/")[2].startswith(("manifest-", "index-")):
            place.world.store.delete([meta.key])
    assert len(place.json("status")) == 3


def test_status_shows_the_intact_layouts_beside_a_damaged_one(tmp_path):
    place = make_place(tmp_path)
    place.damage(place.repository.keys.layout(FIRST, place.first.plan_digest, "manifest.json"))
    result = place.run("status")
    assert result.exit_code == 1
    assert result.stdout.count("DAMAGED") == 1
    assert result.stdout.count("seeded_shuffle") == 2


def test_status_tells_of_a_pointer_to_nothing(tmp_path):
    place = make_place(tmp_path)
    place.world.store.delete([place.repository.keys.layout(SECOND, place.second.plan_digest, "manifest.json")])
    result = place.run("status")
    assert result.exit_code == 1
    assert f"pointed to {place.second}" in result.stdout


def test_history_is_newest_first_and_limited(place):
    moves = place.json("history")
    assert [(move["fence"], move["generation"], move["plan"], move["previous"]) for move in moves] == [
        (2, SECOND, place.second.plan_digest, str(place.first)),
        (1, FIRST, place.first.plan_digest, None),
    ]
    assert place.json("history", "--limit", "1") == moves[:1]
    shown = place.run("history", "-n", "1").stdout
    assert [line.split()[0] for line in shown.splitlines() if "demo.e" in line] == ["2"]
    assert "--limit 2" in shown


# -- inspect -------------------------------------------------------------------------------------------


def test_inspect_counts_chunks_rows_and_bytes_of_nodes_and_splits(place):
    found, manifest = place.json("inspect"), place.repository.open(place.second)
    assert found["parent"] == str(place.first)
    assert found["versions"]["pyarrow"] == pa.__version__
    for group, codes in (("nodes", manifest.nodes), ("splits", manifest.splits)):
        for code, row in enumerate(found[group]):
            rows = manifest.rows[codes == code]
            assert (row["chunks"], row["rows"]) == (len(rows), rows.sum())
            assert row["bytes"] == manifest.nbytes[codes == code].sum()
            assert (row["min_rows"], row["max_rows"]) == (rows.min(), rows.max())
            assert row["mean_rows"] == rows.mean()
    assert [row["name"] for row in found["nodes"]] == ["node-0", "node-1", "gpu-2"]


def test_inspect_tells_hot_from_cold_only_where_draws_were_counted(place):
    found, manifest = place.json("inspect"), place.repository.open(place.second)
    train = np.flatnonzero(manifest.splits == 0)
    density = manifest.access_counts[train] / manifest.rows[train]
    tenth = -(-len(train) // 10)
    by_heat = train[np.argsort(density, kind="stable")]
    assert found["splits"][0]["coldest_rows"] == manifest.rows[by_heat[:tenth]].mean()
    assert found["splits"][0]["hottest_rows"] == manifest.rows[by_heat[-tenth:]].mean()
    assert place.json("inspect", FIRST)["splits"][0]["hottest_rows"] is None


def test_inspect_tells_what_was_inherited_and_what_of_it_has_retired(place):
    first, second = (place.repository.open(ref) for ref in (place.first, place.second))
    shared = {shard.key: shard.size for shard in first.shards} & {shard.key: 0 for shard in second.shards}.keys()
    told = place.json("inspect")["inherited"]
    assert told["shards"] == len(shared)
    assert told["bytes"] == sum(shard.size for shard in first.shards if shard.key in shared)
    old, new = chunk_sets(place, place.first), chunk_sets(place, place.second)
    retired = {ids: chunk for ids, chunk in old.items() if ids not in new and first.shard_key(chunk) in shared}
    assert told["retired_chunks"] == len(retired)
    assert told["retired_rows"] == sum(map(len, retired))
    dead = sum(int(first.nbytes[chunk]) for chunk in retired.values())
    assert dead <= told["retired_bytes"] < dead + 1200 * len({first.shard_key(chunk) for chunk in retired.values()})
    assert place.json("inspect", FIRST)["inherited"]["shards"] == 0


def test_inspect_shows_where_a_chunk_lies_and_how_it_is_made_again(place):
    found, manifest = place.json("inspect", "--chunk", "7"), place.repository.open(place.second)
    raw = place.world.store.get(found["shard_key"])[found["start"] : found["end"]]
    assert manifest.decode(7, raw).num_rows == found["rows"]
    assert found["access_count"] == 7
    assert found["origin"]["fingerprint"] == place.world.snapshot.fingerprint
    assert found["prng_state"]["seed"] == found["seed"] == bytes(manifest.seeds[7]).hex()
    assert len(found["order_sha256"]) == 64
    shown = place.run("inspect", "--chunk", "7").stdout
    for name in ("seed", "checksum", "order_sha256", "content_id"):
        assert found[name] in shown.replace("\n", "")


def test_inspect_lists_the_chunks_of_a_shard_in_stored_order(place):
    found, manifest = place.json("inspect", "--shard", "2"), place.repository.open(place.second)
    assert sorted(row["chunk"] for row in found["chunks"]) == np.flatnonzero(manifest.shard_of == 2).tolist()
    starts = [row["start"] for row in found["chunks"]]
    assert starts == sorted(starts)
    assert found["size"] == len(place.world.store.get(found["key"]))


@pytest.mark.parametrize("options", [["--chunk", "999"], ["--chunk", "-1"], ["--shard", "999"]])
def test_inspect_names_the_range_of_chunks_and_shards(place, options):
    result = place.run("inspect", *options)
    assert result.exit_code == 1
    assert f"{options[0][2:]} {options[1]} is not one of" in result.stderr


# -- diff ----------------------------------------------------------------------------------------------


def test_diff_agrees_with_the_rows_of_both_layouts(place):
    found = place.json("diff", FIRST)
    old, new = chunk_sets(place, place.first), chunk_sets(place, place.second)
    first, second = (place.repository.open(ref) for ref in (place.first, place.second))
    common = old.keys() & new.keys()
    assert {name: amount["objects"] for name, amount in found["chunks"].items()} == {
        "common": len(common),
        "new": len(new) - len(common),
        "gone": len(old) - len(common),
    }
    assert found["chunks"]["new"]["bytes"] == sum(int(second.nbytes[new[ids]]) for ids in new.keys() - common)
    same = sum(map(len, common))
    assert found["rows"] == {"common": same, "moved": 300 - same, "new": 0, "gone": 0}
    moved = [ids for ids in common if first.header.nodes[first.nodes[old[ids]]] == "node-2"]
    assert found["moves"] == [
        {
            "source": "node-2",
            "target": "gpu-2",
            "chunks": len(moved),
            "bytes": sum(int(second.nbytes[new[ids]]) for ids in moved),
        }
    ]


def test_diff_tells_which_objects_are_shared_and_what_was_written(place):
    found = place.json("diff", FIRST, str(place.second))
    first, second = ({s.key: s.size for s in place.repository.open(ref).shards} for ref in (place.first, place.second))
    written = sum(size for key, size in second.items() if key not in first)
    assert found["shards"]["common"]["objects"] == len(first.keys() & second.keys()) > 0
    assert found["shards"]["new"] == {"objects": len(second.keys() - first.keys()), "bytes": written}
    assert found["written_bytes"] == written
    assert found["write_amplification"] == written / found["chunks"]["new"]["bytes"]
    assert found["splits_equal"] is True


def test_a_layout_does_not_differ_from_itself(place):
    found = place.json("diff", FIRST, FIRST)
    assert found["chunks"]["new"]["objects"] == found["shards"]["gone"]["objects"] == found["rows"]["moved"] == 0
    assert found["write_amplification"] is None
    assert "no chunk that both have changed its node" in place.run("diff", FIRST, FIRST).stdout


def test_diff_compares_only_the_rows_that_two_snapshots_share(tmp_path):
    place = make_place(tmp_path)
    pq.write_table(sample_table(40), tmp_path / "source" / "part-900.parquet")
    grown = take_snapshot((tmp_path / "source").as_uri(), previous=place.world.snapshot)
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    place.repository.save_snapshot(grown, assign_splits(np.arange(grown.rows), shares, 0))
    plan = build_plan(grown, generation="demo.e000008")
    place.world.snapshot = grown
    ref = place.world.make(plan)
    found = compare_layouts(place.repository, place.first, ref)
    assert found.rows["new"] == 40
    assert found.rows["common"] + found.rows["moved"] == 300
    assert found.split_problem is None
    back = compare_layouts(place.repository, ref, place.first)
    assert back.rows["gone"] == 40
    assert back.rows["common"] == found.rows["common"]


def test_chunks_of_rows_that_only_have_the_same_numbers_are_not_the_same(tmp_path):
    place = make_place(tmp_path)
    pq.write_table(sample_table(500).slice(350), tmp_path / "source" / "part-001.parquet")  # 150 other rows
    other = take_snapshot((tmp_path / "source").as_uri())
    place.repository.save_snapshot(other, place.repository.load_splits(place.world.snapshot.fingerprint))
    place.world.snapshot = other
    ref = place.world.make(build_plan(other, generation="demo.e000008", nodes=3))
    old, new = chunk_sets(place, place.first), chunk_sets(place, ref)
    assert old.keys() == new.keys()
    same = sum(len(ids) for ids in old if max(ids) < 150)
    found = compare_layouts(place.repository, place.first, ref)
    assert found.rows == {"common": same, "moved": 150 - same, "new": 150, "gone": 150}


def test_rows_that_changed_their_split_are_found(tmp_path):
    place = make_place(tmp_path)
    pq.write_table(sample_table(40), tmp_path / "source" / "part-900.parquet")
    grown = take_snapshot((tmp_path / "source").as_uri(), previous=place.world.snapshot)
    other = assign_splits(np.arange(grown.rows), {"train": 0.8, "validation": 0.1, "test": 0.1}, 1)
    place.repository.save_snapshot(grown, other)
    assert "moved across splits" in compare_splits(
        place.repository, place.world.snapshot.fingerprint, grown.fingerprint
    )
