"""A node's cache within one process: claims, content, eviction, damage, full disks, and folders it must not use."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from full_disk import files_up_to
from node_world import BUDGET, child, claim, content, die, files, key_for, kill, node_cache, put

import foreshard.prefetch.node.cache as cache_module
import foreshard.prefetch.node.folder as folder_module
from foreshard.errors import ConfigError
from foreshard.prefetch.node import NodeCache
from foreshard.prefetch.node.mounts import check_local, file_system
from foreshard.prefetch.node.table import DIRTY, PRESENT, TRIAL, USED


@pytest.fixture
def cache(tmp_path):
    made = node_cache(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path, cache):
    """A second participant of the same cache."""
    assert cache.folder.is_dir()
    made = node_cache(tmp_path)
    yield made
    made.close()


def test_a_chunk_is_fetched_by_whoever_claims_it_first_and_read_by_all(cache, other):
    raw = content(1)
    mine, theirs = claim(cache, raw), claim(other, raw)
    assert mine.mine
    assert theirs.elsewhere
    assert cache.publish(mine, raw)
    found = claim(other, raw)
    assert found.present
    assert bytes(other.read(found)) == raw
    assert cache.used_bytes == other.used_bytes == len(raw)
    assert not cache.publish(mine, raw), "a claim ends with its first publication"


def test_bytes_are_reserved_before_they_are_fetched(tmp_path):
    cache = node_cache(tmp_path, 25_000)
    first, second, third = (claim(cache, content(i)) for i in range(3))
    assert first.mine
    assert second.mine
    assert cache.used_bytes == 20_000
    assert not third.mine, "there is no room while both are on their way"
    assert not third.elsewhere
    cache.abandon([first])
    assert cache.used_bytes == 10_000
    assert claim(cache, content(2)).mine
    cache.close()


def test_what_is_unused_for_longest_makes_room_and_the_folder_never_exceeds_the_budget(tmp_path):
    cache = node_cache(tmp_path, 50_000)
    for number in range(5):
        put(cache, content(number))
    assert claim(cache, content(0)).present  # used again
    for number in range(5, 8):
        put(cache, content(number))
        assert sum(files(cache)[0].values()) == cache.used_bytes <= 50_000
    assert set(files(cache)[0]) == {key_for(content(number)) for number in (0, 4, 5, 6, 7)}
    assert cache.stats().evicted == 3
    cache.close()


def test_a_reader_keeps_a_chunk_that_is_evicted_while_it_reads(tmp_path):
    cache = node_cache(tmp_path, 10_000)
    put(cache, content(1))
    with (cache.folder / "chunks" / next((cache.folder / "chunks").iterdir())).open("rb") as reader:
        put(cache, content(2))
        assert reader.read() == content(1)
    cache.close()


def test_a_chunk_larger_than_the_budget_is_left_alone(cache):
    found = claim(cache, content(1, BUDGET + 1))
    assert not found.mine
    assert not found.present
    assert cache.used_bytes == 0


def test_a_full_bucket_of_the_table_makes_room_by_its_own_least_recently_used(cache):
    keys = [i.to_bytes(16, "little") + bytes(8) + (8).to_bytes(8, "little") for i in range(20)]  # one checksum for all
    for key in keys:
        [found] = cache.claim([key])
        assert cache.publish(found, b"12345678")
    assert [found.present for found in cache.claim(keys[4:])] == [True] * 16
    assert cache.used_bytes == 16 * 8


def test_what_a_participant_had_claimed_when_it_died_goes_to_the_next(cache, other):
    raw = content(1)
    assert claim(other, raw).mine
    assert claim(other, content(2)).mine
    die(other)
    assert claim(cache, raw).mine
    assert cache.stats().stolen == 1
    assert cache.used_bytes == len(raw), "its other reservation is given back, too"


def test_a_fetch_that_takes_too_long_is_taken_over_once_and_its_late_end_changes_nothing(tmp_path):
    slow, quick = node_cache(tmp_path, timeout=0.05), node_cache(tmp_path, timeout=20)
    raw = content(1)
    late = claim(slow, raw)
    assert late.mine
    begin = time.monotonic()
    quick.wait([claim(quick, raw)], begin + 20)
    assert time.monotonic() - begin < 15
    mine = claim(quick, raw)
    assert mine.mine
    assert not slow.publish(late, raw)
    slow.abandon([late])
    assert claim(slow, raw).elsewhere
    assert quick.publish(mine, raw)
    assert quick.used_bytes == len(raw)
    assert quick.stats().stolen == 1
    slow.close()
    quick.close()


def test_a_fetch_taken_over_while_its_file_is_written_does_not_count(tmp_path):
    slow, quick = node_cache(tmp_path, timeout=0.02), node_cache(tmp_path)
    raw = content(1)
    late = claim(slow, raw)
    part = slow._folder.part(slow._shared.nonce)
    assert slow._written(late, part, raw)
    time.sleep(0.03)
    mine = claim(quick, raw)
    assert mine.mine
    assert not slow._placed(late, part)
    assert files(quick)[0] == {}
    assert quick.publish(mine, raw)
    slow.close()
    quick.close()


def test_leaving_gives_back_what_was_claimed_and_the_cache_may_be_used_again(cache, other):
    put(other, content(1))
    late = claim(other, content(2))
    other.close()
    assert claim(cache, content(2)).mine
    assert not other.publish(late, content(2))
    assert claim(other, content(1)).present
    assert cache.stats().stolen == 0


@pytest.mark.parametrize("harm", ["removed", "shortened", "changed"])
def test_a_damaged_file_is_removed_and_fetched_again(cache, harm):
    raw = content(1)
    put(cache, raw)
    [path] = (cache.folder / "chunks").iterdir()
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(raw[:-1] if harm == "shortened" else b"x" + raw[1:])
    found = claim(cache, raw)
    got = cache.read(found)
    if harm == "changed":
        assert bytes(got) != raw
        cache.damaged(found)  # what verifies says so
    else:
        assert got is None
    assert cache.stats().damaged == 1
    assert files(cache) == ({}, [])
    assert cache.used_bytes == 0
    put(cache, raw)
    cache.damaged(found)  # a late reader of the old file
    assert claim(cache, raw).present


def test_a_full_disk_is_counted_and_pauses_writing_for_all(cache, other):
    put(cache, content(0, 3_000))
    found = claim(cache, content(1))
    with files_up_to(4_000):
        assert not cache.publish(found, content(1))
    assert cache.stats().write_failures == 1
    assert "10000 bytes could not be written: [Errno 27]" in cache.stats().last_trouble
    assert files(cache)[1] == [], "no part is left"
    assert cache.used_bytes == 3_000
    for one in (cache, other):
        paused = claim(one, content(2))
        assert not paused.mine
        assert not paused.elsewhere
        assert claim(one, content(0, 3_000)).present, "what is there is still served"
    cache._shared.ledger.table.pause(-1)
    assert claim(other, content(2)).mine


def test_a_disk_that_is_full_at_the_start_is_refused(tmp_path):
    with files_up_to(4_000), pytest.raises(ConfigError, match=r"cannot be opened: \[Errno 27\]"):
        node_cache(tmp_path)


def test_a_folder_that_goes_away_is_counted_and_not_raised(cache, tmp_path):
    put(cache, content(1))
    (tmp_path / "cache").rename(tmp_path / "gone")
    found = claim(cache, content(2))
    assert not cache.publish(found, content(2))
    assert cache.stats().write_failures == 1
    assert "No such file" in cache.stats().last_trouble
    assert cache.read(claim(cache, content(1))) is None
    (tmp_path / "gone").rename(tmp_path / "cache")


@pytest.mark.parametrize("state_lost", [False, True])
def test_leftovers_are_swept_when_the_first_participant_comes(tmp_path, state_lost):
    cache = node_cache(tmp_path)
    put(cache, content(1))
    assert claim(cache, content(2)).mine
    part = cache._folder.part(cache._shared.nonce)
    part.write_bytes(b"half a chunk")
    die(cache)
    chunks, parts = cache.folder / "chunks", cache.folder / "parts"
    (chunks / key_for(content(3)).hex()).with_suffix(".chunk").write_bytes(content(3)[:100])
    (chunks / key_for(content(4)).hex()).with_suffix(".chunk").write_bytes(content(4))
    (chunks / "README.txt").write_text("not a chunk")
    (parts / "mine.part").write_text("not a part of ours")
    if state_lost:
        (cache.folder / "state").unlink()
    cache = node_cache(tmp_path)
    assert sorted(path.name for path in parts.iterdir()) == ["mine.part"]
    assert (chunks / "README.txt").exists(), "nothing that the cache did not make is removed"
    (chunks / "README.txt").unlink()
    assert set(files(cache)[0]) == {key_for(content(1)), key_for(content(4))}
    assert cache.used_bytes == 20_000
    assert claim(cache, content(4)).present
    assert claim(cache, content(2)).mine
    cache.close()


def test_a_smaller_budget_holds_from_the_first_participant_on(tmp_path):
    cache = node_cache(tmp_path)
    for number in range(5):
        put(cache, content(number))
    cache.close()
    cache = node_cache(tmp_path, 25_000)
    assert sum(files(cache)[0].values()) == cache.used_bytes == 20_000
    cache.close()


def test_a_torn_ledger_is_put_right_by_whoever_finds_it(cache, other):
    put(cache, content(1))
    put(cache, content(2))
    mine = claim(cache, content(3))
    table = other._shared.ledger.table
    table.head[USED] += 12_345  # as if somebody had died while reserving
    (cache.folder / "chunks" / key_for(content(2)).hex()).with_suffix(".chunk").unlink()  # or while evicting
    table.head[DIRTY] = 1
    assert claim(cache, content(1)).present
    assert cache.used_bytes == 20_000
    assert cache.publish(mine, content(3)), "fetches of the living go on"
    assert claim(cache, content(2)).mine


def test_a_state_that_is_none_is_made_anew(tmp_path):
    cache = node_cache(tmp_path)
    put(cache, content(1))
    cache.close()
    for junk in (b"", b"junk" * 5000):
        (cache.folder / "state").write_bytes(junk)
        cache = node_cache(tmp_path)
        assert claim(cache, content(1)).present
        cache.close()


# -- folders that cannot be used ---------------------------------------------------------------------------


def test_another_budget_is_refused_while_the_cache_is_in_use(cache, tmp_path):
    with pytest.raises(ConfigError, match=rf"in use with {BUDGET} bytes, this process asks for 5; give all processes"):
        node_cache(tmp_path, 5)
    cache.close()
    node_cache(tmp_path, 5).close()


@pytest.mark.parametrize("options", [{"budget": 0}, {"timeout": 0}, {"typical_bytes": -1}])
def test_settings_that_cannot_be_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match="must be above 0"):
        node_cache(tmp_path, **options)


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("the only copy")
    with pytest.raises(ConfigError, match=r"holds other files \(thesis.tex\); name a new or empty folder"):
        NodeCache(tmp_path, BUDGET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_another_format_is_refused(tmp_path, monkeypatch):
    node_cache(tmp_path).close()
    monkeypatch.setattr(folder_module, "_MARK", b"foreshard node cache, format 2\n")
    with pytest.raises(ConfigError, match=r"is marked b'foreshard node cache, format 1\\n', this foreshard uses .*2"):
        node_cache(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be used: .*Not a directory.*name a folder that this user may write"):
        NodeCache(tmp_path / "file" / "cache", BUDGET)


MOUNTS = r"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw,nosuid shared:9 master:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/my\040disk rw - xfs /dev/nvme1n1 rw
32 22 0:42 / /mnt/bucket rw,nosuid - fuse.mountpoint-s3 mountpoint-s3 rw
33 22 0:43 / /mnt/twice rw - tmpfs tmpfs rw
34 33 0:44 / /mnt/twice rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data", "ext4"),
        ("/homes/me", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/my disk/cache", "xfs"),
        ("/mnt/bucket", "fuse.mountpoint-s3"),
        ("/mnt/twice/cache", "cifs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_mount_it_lies_on(folder, kind):
    assert file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "fuse.s3fs", "fuse", "9p", "ext4", "xfs", "tmpfs", "overlay"])
def test_network_and_fuse_folders_are_refused(tmp_path, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 259:1 / / rw - ext4 /dev/root rw\n30 22 0:4 / {tmp_path} rw - {kind} server:/x rw\n")
    if kind in {"ext4", "xfs", "tmpfs", "overlay"}:
        check_local(tmp_path, mounts)
    else:
        with pytest.raises(ConfigError, match=f"lies on {kind}: .*name a folder on a disk of this machine"):
            check_local(tmp_path, mounts)
    check_local(tmp_path, tmp_path / "no such list")


def test_no_descriptor_is_left_by_close_nor_by_a_cache_that_is_dropped(tmp_path):
    handles = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    cache = node_cache(tmp_path)
    put(cache, content(1))
    cache.close()
    dropped = node_cache(tmp_path)
    assert claim(dropped, content(1)).present
    del dropped
    assert len(os.listdir("/proc/self/fd")) == handles  # noqa: PTH208


def test_a_lock_that_is_not_given_back_is_named_and_then_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "PAUSE_S", 0.01)
    cache = node_cache(tmp_path, timeout=0.1)
    put(cache, content(1))

    def hold():
        with node_cache(tmp_path)._shared.exclusive():
            yield
            time.sleep(60)

    with child(hold) as pid:
        assert not claim(cache, content(1)).present
        assert f"was held by process {pid} for 0.1 s" in cache.stats().last_trouble
        kill(pid)
        time.sleep(0.02)
        assert claim(cache, content(1)).present, "the kernel gives a dead process's lock back"
    cache.close()


# -- what is kept where not all fits -----------------------------------------------------------------------


def epochs(cache, chunks, count, seed):
    """Read chunks in a new random order each epoch; return the share found in the cache, by epoch."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        hits = 0
        for number in rng.permutation(chunks).tolist():
            known = claim(cache, content(number, 100))
            hits += known.present
            if known.mine:
                cache.publish(known, content(number, 100))
            assert cache.used_bytes <= 3_200
        found.append(hits / len(chunks))
    return found


def test_of_epochs_in_random_order_as_much_is_found_again_as_fits(tmp_path):
    chunks, budget = range(64), 3_200  # half of them
    known = node_cache(tmp_path / "known", budget, population=64)
    unknown = node_cache(tmp_path / "unknown", budget)
    assert np.mean(epochs(known, chunks, 8, 1)[2:]) > 0.4
    assert np.mean(epochs(unknown, chunks, 8, 1)[2:]) < 0.25, "what the least recently used going first leaves"
    table = known._shared.ledger.table
    trial = (table.state == PRESENT) & (table.trial == 1)
    assert table.head[TRIAL] == table.nbytes[trial].sum() <= budget // 8
    assert np.mean(epochs(known, range(100, 164), 8, 1)[4:]) > 0.4, "chunks of an old layout go in the end"
    known.close()
    unknown.close()


def test_a_chunk_on_trial_stays_for_those_who_want_it_at_about_the_same_time(tmp_path):
    cache = node_cache(tmp_path, 3_200, population=64)
    epochs(cache, range(64), 3, 1)
    for number in range(200, 204):
        put(cache, content(number, 100))
    assert all(claim(cache, content(number, 100)).present for number in range(200, 204))
    cache.close()
