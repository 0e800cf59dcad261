"""`foreshard gc` shows what may go before it deletes exactly that."""

import pytest
from cli_world import FIRST, make_place, run, write_config

NOW = ["--keep-generations", "1", "--keep-hours", "0", "--orphan-hours", "0"]


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def test_a_dry_run_changes_nothing_and_says_why_the_rest_stays(place):
    before = place.world.objects()
    result = place.run("gc", *NOW)
    assert result.exit_code == 0
    assert place.world.objects() == before
    found = place.json("gc", *NOW)
    assert found["kept"] == {str(place.second): ["current", "published generation 1 from the last of its run"]}
    assert set(found["doomed"]) == {str(place.first), str(place.rival)}
    assert sum(amount["objects"] for amount in found["categories"].values()) == found["total"]["objects"]
    assert found["total"]["objects"] > 0
    for word in ("stays", "goes", "shards", "gc --delete"):
        assert word in result.stdout


def test_delete_removes_what_the_dry_run_listed(place):
    before = place.world.objects()
    planned = place.json("gc", "--list", *NOW)
    done = place.json("gc", "--delete", *NOW)
    assert done["deleted"] == len(planned["objects"])
    assert done["complete"]
    assert before.keys() - place.world.objects().keys() == set(planned["objects"])
    assert place.run("verify", "--all").exit_code == 0
    assert "nothing to delete" in place.run("gc", *NOW).stdout


def test_the_configurations_retention_holds_unless_an_option_overrides_it(place, tmp_path):
    path = str(write_config(tmp_path, place, retention={"keep_generations": 1, "keep_hours": 0, "orphan_hours": 0}))
    assert str(place.first) not in run("gc", "-c", path, "--json").stdout.partition('"doomed"')[0]
    kept = run("gc", "-c", path, "--keep-generations", "2", "--json").stdout.partition('"doomed"')[0]
    assert str(place.first) in kept
    # Without a configuration the defaults hold, which keep what is young.
    assert place.json("gc")["doomed"] == []


def test_a_writer_at_work_blocks_the_deletion_and_the_exit_code_tells(place):
    before = place.world.objects()
    with place.repository.lease_writer(FIRST):
        assert "a writer is active" in place.json("gc", *NOW)["blocked"]
        result = place.run("gc", "--delete", *NOW)
    assert result.exit_code == 1
    assert "a writer is active" in result.stderr
    assert place.world.objects().keys() >= before.keys()
    assert place.run("gc", "--delete", *NOW).exit_code == 0


@pytest.mark.parametrize("options", [["--keep-hours", "-1"], ["--keep-generations", "0"], ["--keep-hours", "inf"]])
def test_values_that_cannot_be_used_are_refused(place, options):
    result = place.run("gc", *options)
    assert result.exit_code != 0
    assert options[0] in result.stderr
