"""The face of the library: options and states refused by name, batches, whole splits, and what importing it costs."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import make_dataset, publish

import foreshard
from foreshard.errors import ConfigError, ObjectNotFoundError
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import SequentialOrder, UniformOrder
from foreshard.loader.reading import read_split
from foreshard.splits import SPLITS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("interface"), 300)
    publish(data, 0, seed=1)
    return data


def loader_of(dataset, order=None, **options):
    settings = {"global_batch": 16, "memory": 6000, **options}
    return Loader(dataset.repository, order or UniformOrder(dataset.train_ids, 1), LoaderOptions(**settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "sequential"}, "has order 'sequential', this loader 'uniform'"),
        ({"global_batch": 17}, "has global_batch 17, this loader 16"),
        ({"fingerprint": "0" * 8}, "has fingerprint '00000000'"),
        ({"remainder": "keep"}, "has remainder 'keep', this loader 'drop'"),
        ({"version": 9}, "has version 9"),
        ({"epoch": 0}, "epoch 0 and step 0"),
        ({"step": -1}, "step -1"),
        ({"step": None}, "step None"),
    ],
)
def test_a_state_that_would_change_the_order_is_refused_by_name(dataset, change, message):
    loader = loader_of(dataset)
    with pytest.raises(ConfigError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(ConfigError, match="has version None"):
        loader.load_state_dict({})


def test_a_state_at_the_end_of_an_epoch_starts_the_next(dataset):
    loader = loader_of(dataset)
    steps = len(dataset.train_ids) // 16
    loader.load_state_dict({**loader.state_dict(), "epoch": 4, "step": steps})
    assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (5, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("value", "nothing")}, "column 'nothing' is not in layout .* it has value, text, late, sample_id"),
        ({"columns": ("value", "value")}, "name one twice"),
        ({"dealing": "random"}, "dealing 'random' is unknown"),
        ({"remainder": "lose"}, "remainder 'lose' is unknown"),
        ({"global_batch": 0}, "global_batch 0 must be at least 1"),
        ({"timeout": 0}, "timeout 0 must be above 0"),
        ({"global_batch": 2, "place": Place(0, 3)}, "gives some of 3 ranks no sample"),
        ({"place": Place(0, 1, 0, 2), "logging": Logging("run", "w")}, "needs workers=1"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_value(dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        loader_of(dataset, **options)


@pytest.mark.parametrize("place", [(3, 3), (-1, 3), (0, 0), (0, 1, 2, 2)])
def test_a_place_outside_its_world_is_refused(place):
    with pytest.raises(ConfigError, match="is not within"):
        Place(*place)


@pytest.mark.parametrize(("run", "write_id", "phases"), [("a/b", "w", 1), ("run", "", 1), ("run", "w", 0)])
def test_logging_names_that_cannot_stand_in_a_key_are_refused(run, write_id, phases):
    with pytest.raises(ConfigError):
        Logging(run, write_id, phases)


def test_epochs_splits_and_unpublished_layouts_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="epoch 0 must be at least 1"):
        loader_of(dataset).set_epoch(0)
    with pytest.raises(ConfigError, match="holdout"):
        Loader(dataset.repository, SequentialOrder(dataset.train_ids), LoaderOptions(4, memory=6000), split="holdout")
    empty = make_dataset(tmp_path, 20)
    with pytest.raises(ObjectNotFoundError, match="bootstrap first"):
        loader_of(empty)


def test_a_batch_reads_like_a_dict_of_arrays(dataset):
    loader = loader_of(dataset, SequentialOrder(dataset.train_ids), columns=("late", "value"))
    batch = next(iter(loader))
    assert list(batch) == batch.keys() == ["late", "value", "sample_id"]
    assert "value" in batch
    assert "text" not in batch
    assert len(batch) == 16
    assert (batch.epoch, batch.step) == (1, 0)
    assert (batch.sample_ids == dataset.train_ids[:16]).all()
    assert (batch.positions == np.arange(16)).all()
    arrays = dict(batch)
    assert (arrays["value"] == batch.sample_ids * 10).all()
    assert (arrays["late"] == (batch.sample_ids % 3 == 0)).all()
    assert batch["value"] is batch["value"]
    assert batch.rows.schema.names == batch.keys()
    assert isinstance(batch.rows, pa.RecordBatch)
    with pytest.raises(KeyError):
        batch["text"]
    loader.close()


def test_batches_without_a_row_for_this_rank_have_the_same_columns(dataset):
    manifest = dataset.repository.open()
    elsewhere = dataset.train_ids[manifest.nodes[manifest.chunk_of[dataset.train_ids]] == 0][:16]
    options = {"place": Place(1, 3), "dealing": "owner", "columns": ("value", "text")}
    loader = loader_of(dataset, SequentialOrder(elsewhere), **options)
    [batch] = list(loader)
    assert len(batch) == len(batch["value"]) == batch.rows.num_rows == 0
    assert batch.keys() == ["value", "text", "sample_id"]
    assert loader.last_epoch.stats.touches == 0
    assert loader.last_epoch.stats.figures()["fraction_of_min"] == 1
    loader.close()


@pytest.mark.parametrize("split", SPLITS)
def test_read_split_gives_the_sources_rows(dataset, split):
    source = pa.concat_tables(
        [pq.read_table(dataset.repository.load_snapshot(dataset.snapshot.fingerprint).url.removeprefix("file://"))]
    )
    ids = np.flatnonzero(dataset.splits == SPLITS.index(split))
    found = read_split(dataset.repository, dataset.repository.open(), split)
    assert found.drop_columns(["sample_id"]).equals(source.take(ids))
    assert (found.column("sample_id").to_numpy() == ids).all()
    some = read_split(dataset.repository, dataset.repository.open(), split, ["text"])
    assert some.schema.names == ["text", "sample_id"]


def run_child(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_importing_the_library_imports_no_heavy_one_and_starts_no_thread():
    heavy = ("dagster", "torch", "prophet", "ray", "sklearn", "pandas", "matplotlib", "deap")
    done = run_child(
        "import sys, threading, foreshard\n"
        "light = set(sys.modules)\n"
        "for name in foreshard.__all__: getattr(foreshard, name)\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
        "assert threading.active_count() == 1\n"
        "assert 'pyarrow' not in light and 'numpy' not in light"
    )
    assert done.returncode == 0, done.stderr


def test_a_training_job_loads_nothing_that_only_other_programs_need():
    unneeded = (
        "pydantic",
        "pyarrow.compute",
        "pyarrow.dataset",
        "pandas",
        "foreshard.access.trace",
        "foreshard.forecast",
    )
    done = run_child(
        "import sys, foreshard.loader.loader\n"
        f"loaded = [name for name in {unneeded!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    assert done.returncode == 0, done.stderr


def test_the_public_names_resolve_to_what_they_stand_for():
    assert foreshard.Loader is Loader
    assert foreshard.read_split is read_split
    assert foreshard.LoaderOptions is LoaderOptions
    assert sorted(foreshard.__all__) == sorted(foreshard._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Loaders'"):
        _ = foreshard.Loaders
