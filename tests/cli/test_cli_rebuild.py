"""`foreshard rebuild` reproduces a layout from plan and source alone, and puts back what the repository lost."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_world import FIRST, make_place, run, write_config
from shardkit import flip_byte

from foreshard.errors import ConfigError
from foreshard.shards.header import ShardRef
from foreshard.shards.journal import write_journal
from foreshard.shards.rebuild import rebuild, rebuild_space
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three layouts, and a temporary folder of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return make_place(tmp_path)


def digests(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("data/shards/*/*.arrow")}


def recorded(place, ref) -> set[str]:
    return {shard.sha256 for shard in place.repository.open(ref).shards}


@pytest.mark.parametrize("name", ["second", "first", "rival"])
def test_a_layout_is_reproduced_and_nothing_is_left_behind(place, tmp_path, name):
    ref, before = getattr(place, name), place.world.objects()
    result = place.run("rebuild", str(ref))
    assert result.exit_code == 0, result.output
    assert f"{ref}: reproduced" in result.stdout
    assert place.world.objects() == before
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("executor", ["threads", "processes", "serial"])
def test_executors_and_clusters_give_the_same_digests(place, tmp_path, executor):
    nodes = [{"name": f"other-{n}", "memory": 9_000_000} for n in range(5)]
    path = write_config(tmp_path, place, cluster={"nodes": nodes})
    options = ["--executor", executor, "--workers", "3", "--into", (tmp_path / "made").as_uri(), "-c", str(path)]
    result = run("rebuild", *options)
    assert result.exit_code == 0, result.output
    assert digests(tmp_path / "made") == recorded(place, place.second)
    assert not list((tmp_path / "made").rglob("journal-*"))


def test_shards_of_other_layouts_and_earlier_attempts_are_not_used(place, tmp_path):
    """What is inherited is made from the source too, also where the target has a journal that claims to hold it."""
    place.world.store.delete([shard.key for shard in place.repository.open(place.first).shards])
    target, keys = ObjectStore.open((tmp_path / "made").as_uri()), place.repository.keys
    lie = ShardRef(keys.shard("0" * 64), "0" * 64, 3)
    target.put(lie.key, b"lie")
    ends = np.array([1, 2, 3, 4])
    journal = [PutShard(0, lie, ends - 1, ends, ends.astype(np.uint64), written=True)]
    write_journal(target, keys, place.second, journal)
    rebuilt = rebuild(place.repository, place.second, target)
    assert rebuilt.ok
    assert recorded(place, place.second) == digests(tmp_path / "made") - {lie.sha256}


def test_a_source_that_changed_is_an_error_not_a_difference(place, tmp_path):
    flip_byte(tmp_path / "source" / "part-000.parquet", 200)
    result = place.run("rebuild")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "part-000.parquet" in result.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_another_result_names_the_first_differing_shards_and_the_versions(place, monkeypatch):
    load = type(place.repository).load_plan

    def other_seed(self, ref):
        return replace(load(self, ref), root_seed=8)

    monkeypatch.setattr(type(place.repository), "load_plan", other_seed)
    result = place.run("rebuild", FIRST)
    assert result.exit_code == 1
    assert "NOT REPRODUCED" in result.stdout
    assert "shard 0: recorded" in result.stdout.replace("\n", " ")
    assert "written by" in result.stdout
    assert result.stdout.count("pyarrow") == 2


def test_missing_shards_are_noticed_without_repair(place):
    key = place.repository.open(place.first).shards[0].key
    place.world.store.delete([key])
    result = place.run("rebuild", FIRST)
    assert result.exit_code == 1
    assert key in result.stdout
    assert "--repair" in result.stderr
    assert not place.world.store.exists(key)


def test_repair_puts_back_deleted_and_damaged_shards(place):
    before = place.world.objects()
    gone, changed, cut = (shard.key for shard in place.repository.open(place.second).shards[:3])
    place.world.store.delete([gone])
    place.damage(changed)
    place.world.store.put(cut, before[cut][:-10])
    result = place.run("rebuild", "--repair")
    assert result.exit_code == 0, result.output
    assert all(f"put back {key}" in result.stdout for key in (gone, changed, cut))
    assert place.world.objects() == before
    assert place.run("verify", "--all").exit_code == 0
    assert "nothing to repair" in place.run("rebuild", "--repair").stdout


@pytest.mark.parametrize("kind", ["index", "shards", "consistency"])
def test_repair_puts_back_parts_that_follow_from_the_plan(place, kind):
    before = place.world.objects()
    name = place.repository.header(place.second).parts[kind].name
    key = place.repository.keys.layout(place.second.generation, place.second.plan_digest, name)
    place.damage(key)
    # What cannot be compared is no match; the next look finds all of it.
    assert f"put back {key}" in place.run("rebuild", "--repair").stdout
    assert place.world.objects() == before
    assert place.run("rebuild").exit_code == 0


def test_repair_tells_what_cannot_be_made_again(place):
    name = place.repository.header(place.second).parts["manifest"].name
    key = place.repository.keys.layout(place.second.generation, place.second.plan_digest, name)
    place.world.store.delete([key])
    result = place.run("rebuild", "--repair")
    assert result.exit_code == 1
    assert "backup" in result.stdout
    assert not place.world.store.exists(key)


def test_repair_never_puts_what_differs_from_the_record(place, monkeypatch):
    key = place.repository.open(place.first).shards[0].key
    place.damage(key)
    damaged = place.world.objects()
    load = type(place.repository).load_plan
    monkeypatch.setattr(type(place.repository), "load_plan", lambda self, ref: replace(load(self, ref), root_seed=8))
    result = place.run("rebuild", FIRST, "--repair")
    assert result.exit_code == 1
    assert place.world.objects() == damaged


def test_the_layouts_own_store_is_no_target(place):
    result = place.run("rebuild", "--into", place.world.store.url)
    assert result.exit_code == 1
    assert "--into" in result.stderr or "another one" in result.stderr


def test_a_folder_that_is_missing_or_too_small_is_refused_before_anything_is_made(place, tmp_path, monkeypatch):
    result = place.run("rebuild", "--spool", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "nowhere" in result.stderr
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with (
        pytest.raises(ConfigError, match="10 free"),
        rebuild_space(place.repository, place.second, tmp_path),
    ):
        pass


def test_progress_counts_every_shard(place, tmp_path):
    told = []
    store = ObjectStore.open((tmp_path / "made").as_uri())
    rebuilt = rebuild(place.repository, place.second, store, progress=lambda *step: told.append(step))
    shards = len(rebuilt.manifest.shards)
    assert told == [(number, shards) for number in range(1, shards + 1)]
    assert rebuilt.bytes == sum(shard.size for shard in rebuilt.manifest.shards)


@pytest.mark.s3
def test_everything_works_on_s3(tmp_path, seaweedfs_location):
    place = make_place(tmp_path, seaweedfs_location.url, seaweedfs_location.endpoint)
    gone, changed = (shard.key for shard in place.repository.open().shards[:2])
    place.world.store.delete([gone])
    place.damage(changed)
    assert place.run("verify").exit_code == 1
    result = place.run("rebuild", "--repair", "--executor", "processes")
    assert result.exit_code == 0, result.output
    assert place.run("verify", "--all").exit_code == 0
    assert len(place.json("status")) == 3
    assert place.json("diff", FIRST)["splits_equal"]
    assert place.json("inspect", "--chunk", "0")["chunk"] == 0
    assert [move["fence"] for move in place.json("history")] == [2, 1]
    options = ["--keep-generations", "1", "--keep-hours", "0", "--orphan-hours", "0"]
    planned = place.json("gc", *options)
    done = place.json("gc", "--delete", *options)
    assert done["deleted"] == planned["total"]["objects"] > 0
    assert place.run("verify", "--all").exit_code == 0
