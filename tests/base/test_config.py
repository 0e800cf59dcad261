"""Configuration: every value that cannot be used is named with its place, what it is, and what it should be."""

import copy
from pathlib import Path

import pytest
import yaml

from foreshard.config import load_config
from foreshard.errors import ConfigError
from foreshard.storage import ObjectStore

GOOD = {
    "dataset": {"name": "flights", "source": {"url": "file:my data/source"}, "target": "late"},
    "store": {"url": "s3://bucket/prefix", "endpoint": "http://127.0.0.1:9000"},
    "cluster": {"nodes": [{"name": "node-0", "memory": 1000}, {"name": "node-1", "memory": 2000}]},
}


def _write(tmp_path, changes):
    raw = copy.deepcopy(GOOD)
    for place, value in changes.items():
        *path, last = place.split(".")
        at = raw
        for part in path:
            at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
        if value is KeyError:
            del at[last]
        else:
            at[last] = value
    file = tmp_path / "foreshard.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def test_a_usable_file_is_read_with_its_defaults(tmp_path):
    config = load_config(_write(tmp_path, {"reshard.every": 2}))
    assert config.dataset.name == "flights"
    assert config.dataset.splits.fractions() == {"train": 0.8, "validation": 0.1, "test": 0.1}
    assert [node.memory for node in config.cluster.nodes] == [1000, 2000]
    assert (config.reshard.every, config.reshard.horizon) == (2, 4)
    assert config.loader.global_batch == 256
    assert config.store.endpoint == "http://127.0.0.1:9000"


def test_a_relative_folder_is_taken_from_the_file_not_from_where_one_stands(tmp_path, monkeypatch):
    file = _write(tmp_path, {"store.url": "file:.foreshard/objects"})
    monkeypatch.chdir("/")
    config = load_config(file)
    ObjectStore.open(config.dataset.source.url).put("a", b"x")
    assert (tmp_path / "my data" / "source" / "a").read_bytes() == b"x"
    assert config.store.url == (tmp_path / ".foreshard" / "objects").as_uri()


@pytest.mark.parametrize("url", ["file:///data", "s3://bucket", "s3://bucket/a/b", "memory://"])
def test_absolute_stores_stay_as_they_are(tmp_path, url):
    assert load_config(_write(tmp_path, {"store.url": url})).store.url == url


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("dataset.name", "../up", "letters, digits, '_' or '-'"),
        ("dataset.name", 3, "valid string"),
        ("dataset.target", KeyError, "is missing; add it"),
        ("dataset.seed", -1, "greater than or equal to 0"),
        ("dataset.source.url", "ftp://host/x", "use file:///folder, file:folder"),
        ("store.url", "/data/store", "use file:///folder"),
        ("store.url", "s3://", "s3://bucket/prefix"),
        ("store.endpoint", "127.0.0.1:9000", "use one like http://127.0.0.1:9000"),
        ("store", KeyError, "is missing; add it"),
        ("store.secret_key", "x", "is not a setting; remove it, or use one of url, endpoint"),
        ("cluster.nodes.1.memory", 0, "greater than 0"),
        ("cluster.nodes.1.memory", "lots", "valid integer"),
        ("cluster.nodes.0.speed", float("inf"), "finite number"),
        ("cluster.nodes.0.speed", float("nan"), "finite number"),
        ("cluster.nodes.0.colour", "red", "use one of name, memory, speed, bandwidth"),
        ("cluster.nodes", [], "at least 1 item"),
        ("retention.keep_generations", 0, "greater than or equal to 1"),
        ("retention.keep_days", 1, "use one of keep_generations, keep_hours, orphan_hours"),
        ("loader.global_batch", 0, "greater than 0"),
        ("loader.cache_fraction", 1.5, "less than or equal to 1"),
        ("loader.concurrency", 1.5, "valid integer"),
        ("loader.timeout", -1, "greater than 0"),
        ("reshard.every", 0, "greater than or equal to 1"),
        ("reshard.weight_time", -0.5, "greater than or equal to 0"),
        ("typo", 1, "use one of dataset, store, cluster, loader, reshard"),
    ],
)
def test_a_bad_value_is_told_with_place_value_and_fix(tmp_path, place, value, told):
    file = _write(tmp_path, {place: value})
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    first, *lines = str(caught.value).splitlines()
    assert first == f"configuration {file} is not usable:"
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"  {place}: ")
    assert told in lines[0]
    if value is not KeyError and "is not a setting" not in told and "use one of" not in told:
        assert f"(got {value!r})" in lines[0]


@pytest.mark.parametrize(
    ("changes", "place", "told"),
    [
        ({"dataset.splits": {"train": 0.9, "validation": 0.3, "test": 0}}, "dataset.splits", "it must be 1"),
        ({"cluster.nodes.1.name": "node-0"}, "cluster", r"\['node-0', 'node-0'\] are not distinct"),
        ({"reshard.min_chunk_rows": 4000}, "reshard", "max_chunk_rows 4096 must be at least twice min_chunk_rows 4000"),
        ({"reshard.weight_time": 0, "reshard.weight_consistency": 0}, "reshard", "both 0; raise at least one"),
    ],
)
def test_values_that_contradict_each_other_are_told(tmp_path, changes, place, told):
    with pytest.raises(ConfigError, match=rf"\n  {place}: .*{told}"):
        load_config(_write(tmp_path, changes))


def test_all_bad_values_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, {"loader.phases": 0, "cluster.nodes.0.speed": 0, "dataset.name": ""}))
    assert sorted(line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]) == [
        "cluster.nodes.0.speed",
        "dataset.name",
        "loader.phases",
    ]


@pytest.mark.parametrize("url", ["s3://key:hush@bucket/x", "http://key:hush@host"])
@pytest.mark.parametrize("place", ["store.url", "store.endpoint", "dataset.source.url"])
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path, url, place):
    with pytest.raises(ConfigError, match=place) as caught:
        load_config(_write(tmp_path, {place: url}))
    chain = [caught.value, caught.value.__cause__]
    assert "hush" not in " ".join(map(str, chain))


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words"])
def test_a_file_without_settings_is_told(tmp_path, text):
    file = tmp_path / "foreshard.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="the whole file: must hold settings"):
        load_config(file)


@pytest.mark.parametrize("raw", [b"a: [", b"a: b: c", b"\xff\xfe\x00x", b"\tx: 1"])
def test_a_file_that_is_not_yaml_is_told(tmp_path, raw):
    file = tmp_path / "foreshard.yaml"
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=f"configuration {file} is not YAML: "):
        load_config(file)


def test_a_missing_file_is_told(tmp_path):
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"configuration {path} cannot be read"):
            load_config(Path(path))


def test_the_model_sees_the_named_features_and_the_target_last(tmp_path):
    config = load_config(_write(tmp_path, {"dataset.features": ["b", "a"], "dataset.key": "id"})).dataset
    assert config.model_columns(["a", "b", "c", "id", "late"]) == ["b", "a", "late"]
    everything = load_config(_write(tmp_path, {"dataset.key": "id"})).dataset
    assert everything.model_columns(["a", "b", "c", "id", "late"]) == ["a", "b", "c", "late"]


def test_a_target_among_the_features_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="features hold the target 'late'; leave it out"):
        load_config(_write(tmp_path, {"dataset.features": ["a", "late"]}))
