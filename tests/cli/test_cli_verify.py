"""`foreshard verify` finds damage, says so by its exit code, and holds a lease where it may."""

import errno
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_world import FIRST, SECOND, make_place
from shardkit import build_plan, sample_table

from foreshard.errors import AccessDeniedError
from foreshard.source import take_snapshot
from foreshard.splits import assign_splits
from foreshard.storage import ObjectStore, Write
from foreshard.storage_errors import translated


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def shard_in(place, ref, *, not_in=None):
    """Return the key of a shard of one layout, and of no other if one is named."""
    others = {shard.key for shard in place.repository.open(not_in).shards} if not_in else set()
    return next(shard.key for shard in place.repository.open(ref).shards if shard.key not in others)


def test_intact_layouts_pass(place):
    result = place.run("verify")
    assert result.exit_code == 0
    assert f"{place.second}: intact" in result.stdout
    assert "300 rows" in result.stdout
    result = place.run("verify", "--all")
    assert result.exit_code == 0
    assert "3 of 3 layouts are intact" in result.stdout


@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_a_bad_shard_fails_the_layouts_that_hold_it(place, what):
    key = shard_in(place, place.second, not_in=place.first)
    if what == "damaged":
        place.damage(key)
    else:
        place.world.store.delete([key])
    result = place.run("verify")
    assert result.exit_code == 1
    assert f"{place.second}: DAMAGED" in result.stdout
    assert key in result.stdout
    assert "--repair" in result.stdout
    result = place.run("verify", "--all")
    assert result.exit_code == 1
    assert "2 of 3 layouts are intact" in result.stdout
    assert place.run("verify", FIRST).exit_code == 0
    assert "1 of 2 layouts are intact" in place.run("verify", SECOND, "--all").stdout


def test_a_layout_that_cannot_be_opened_does_not_end_the_verification_of_others(place):
    header = place.repository.header(place.first)
    name = header.parts["index"].name
    place.damage(place.repository.keys.layout(FIRST, place.first.plan_digest, name))
    result = place.run("verify", "--all")
    assert result.exit_code == 1
    assert f"{place.first}: DAMAGED" in result.stdout
    assert "2 of 3 layouts are intact" in result.stdout


def test_a_lease_is_held_while_reading_and_given_up_after(place, monkeypatch):
    seen: list[Write] = []
    monkeypatch.setattr(ObjectStore, "on_write", lambda _, write: seen.append(write))
    assert place.run("verify").exit_code == 0
    leases = [write.action for write in seen if "/leases/reader-" in write.key and write.done]
    assert leases[0] == "create"
    assert leases[-1] == "delete"
    assert list(place.world.store.list("data/leases/")) == []


def test_credentials_that_may_only_read_suffice(place, monkeypatch):
    def refuse(_, write):
        raise AccessDeniedError(f"{write.key} may not be written")

    monkeypatch.setattr(ObjectStore, "on_write", refuse)
    result = place.run("verify")
    assert result.exit_code == 0, result.output
    assert "intact" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "no lease" in result.stderr


def test_a_folder_that_is_mounted_read_only_counts_as_credentials_that_may_not_write():
    with pytest.raises(AccessDeniedError, match="Read-only"), translated("a", "file:///b", None):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_rows_that_changed_their_split_since_the_parent_are_a_problem(place, tmp_path):
    pq.write_table(sample_table(40), tmp_path / "source" / "part-900.parquet")
    grown = take_snapshot((tmp_path / "source").as_uri(), previous=place.world.snapshot)
    splits = assign_splits(np.arange(grown.rows), {"train": 0.8, "validation": 0.1, "test": 0.1}, 0)
    sample = int(np.flatnonzero(splits == 0)[0])
    plan = build_plan(grown, generation="demo.e000008")  # its chunks follow the splits before the change
    place.repository.save_snapshot(grown, splits)
    place.world.snapshot = grown
    place.world.make(replace(plan, parent=place.second))
    assert place.run("verify", "demo.e000008").exit_code == 0
    key = place.repository.keys.splits(place.world.snapshot.fingerprint)
    changed = splits.copy()
    changed[sample] = 2
    place.world.store.delete([key])
    place.repository.save_snapshot(grown, changed)
    result = place.run("verify", "demo.e000008")
    assert result.exit_code == 1
    assert f"splits differ from those of parent {SECOND}" in result.stdout
    assert f"sample {sample}" in result.stdout
