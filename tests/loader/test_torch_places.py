"""Ranks of a PyTorch job: found without a collective, and options that ranks or workers forbid."""

import pytest
import torch.distributed  # noqa: TID253
from torch_world import BATCH, OPTIONS, dataset_of, expected, ids, loading, order_of

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.torch import TorchDataset, data_loader, distributed_place


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("places"))


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_ranks_come_from_the_environment_and_none_from_nothing(dataset, monkeypatch):
    assert distributed_place() == Place()
    want, parts = expected(dataset, 1)[0], []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        assert distributed_place() == Place(rank, 3)
        with loading(dataset) as loader:
            parts.append(ids(loader))
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == want
    assert not torch.distributed.is_initialized()


def test_a_process_group_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert distributed_place() == Place(0, 1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("rank", "world"), [("1", None), (None, "2"), ("one", "2"), ("2", "2")])
def test_half_an_environment_is_refused(monkeypatch, rank, world):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="rank"):
        distributed_place()


def test_a_given_place_goes_before_the_environment(dataset, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = LoaderOptions(BATCH, place=Place(2, 4), memory=40_000)
    assert TorchDataset(dataset.repository, order_of(dataset), options).options.place == Place(2, 4)


def test_options_that_would_lose_samples_are_refused(dataset):
    def build(options, **settings):
        return data_loader(dataset.repository, order_of(dataset), options, **settings)

    with pytest.raises(ConfigError, match="has 2 workers"):
        build(LoaderOptions(BATCH, place=Place(0, 1, 0, 2)))
    with pytest.raises(ConfigError, match="dealing='owner' over 2 ranks needs layout"):
        build(LoaderOptions(BATCH, place=Place(0, 2), dealing="owner"))
    build(LoaderOptions(BATCH, place=Place(0, 2), dealing="owner"), layout=dataset.repository.current().ref)
    with pytest.raises(ConfigError, match="access logging needs num_workers=0, not 1"):
        build(LoaderOptions(BATCH, logging=Logging("run", "w")), num_workers=1)
    with pytest.raises(ConfigError, match="batch_size, shuffle cannot be given"):
        build(OPTIONS, batch_size=4, shuffle=True)
    with pytest.raises(ConfigError, match="holdout"):
        build(OPTIONS, split="holdout")


def test_a_transform_makes_what_is_yielded(dataset):
    with loading(dataset, transform=lambda batch: (batch.step, int(batch["value"].sum()))) as loader:
        want = expected(dataset, 1)[0]
        assert list(loader) == [(step, 10 * sum(row)) for step, row in enumerate(want)]
