"""What a DataLoader's workers did is known to the process that trains, however they were started."""

import pytest
import torch.utils.data  # noqa: TID253
from full_disk import files_up_to
from torch_world import BATCH, OPTIONS, STEPS, dataset_of, ids, loading, order_of, readers
from waiting import wait_until

from foreshard.keys import LayoutRef
from foreshard.loader import worker_reports
from foreshard.loader.epochs import EpochReport
from foreshard.loader.options import LoaderOptions
from foreshard.loader.torch import TorchDataset
from foreshard.loader.worker_reports import KEPT, WorkerReports
from foreshard.prefetch.monitor import EpochStats

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("reports"))


def check(source, epochs):
    """Every epoch is told of once, and whole."""
    stats = source._reports.snapshot().epochs
    assert [each.epoch for each in stats] == list(range(1, epochs + 1))
    for each in stats:
        assert (each.steps, each.samples) == (STEPS, STEPS * BATCH)
        assert each.touches >= each.hits > 0
        assert each.origin_bytes > 0
    report = source.report()
    assert f"Altogether: {epochs} epochs, {epochs * STEPS:,} batches, {epochs * STEPS * BATCH:,} samples" in report
    assert "seconds are added up" in report
    assert source.last_epoch.epoch == epochs
    assert source.last_epoch.stats == stats[-1]


@pytest.mark.parametrize(("start", "persistent"), [("fork", True), ("spawn", False)])
def test_the_report_of_a_data_loader_is_the_sum_of_its_workers(local, start, persistent):
    with loading(local, num_workers=2, multiprocessing_context=start, persistent_workers=persistent) as loader:
        assert "no DataLoader's workers have come to the end of an epoch" in loader.report()
        for _ in range(2):
            ids(loader)
        check(loader.source, 2)
        assert loader.report() == loader.source.report()
    wait_until(lambda: not readers())


def test_a_plain_data_loader_is_reported_too(local):
    dataset = TorchDataset(local.repository, order_of(local), OPTIONS)
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    check(dataset, 2)


def test_an_epoch_that_was_left_is_not_reported_before_it_is_done(local):
    with loading(local, num_workers=2, multiprocessing_context="fork", prefetch_factor=1) as loader:
        for _, _ in zip(loader, range(3), strict=False):
            pass
        assert loader.source.last_epoch is None
        rest = ids(loader)
        assert loader.source.last_epoch.stats.steps >= len(rest)


def test_a_worker_without_a_step_is_part_of_the_sum(local):
    options = LoaderOptions(len(local.train_ids), memory=40_000, timeout=30)
    with loading(local, options=options, num_workers=2, multiprocessing_context="fork") as loader:
        assert len(ids(loader)) == 1
        wait_until(lambda: loader.source.last_epoch is not None)
        assert loader.source.last_epoch.stats.steps == 1


def test_the_reports_of_workers_go_with_their_dataset_and_not_with_a_workers_copy(local):
    dataset = TorchDataset(local.repository, order_of(local), OPTIONS)
    folder = dataset._reports.folder
    list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"))
    assert len(list(folder.iterdir())) == 1
    del dataset
    wait_until(lambda: not folder.exists())


def test_without_a_folder_training_goes_on_and_a_warning_says_that_nothing_is_reported(local, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.mkdtemp", _no_folder)
    dataset = TorchDataset(local.repository, order_of(local), OPTIONS)
    monkeypatch.undo()
    assert "workers do will not be reported: No usable temporary directory found" in caplog.text
    found = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert len(list(found)) == STEPS
    assert dataset.last_epoch is None


def _no_folder(**_):
    raise FileNotFoundError("No usable temporary directory found")


def tell(reports, epoch):
    layout = LayoutRef("demo.e000000", "0" * 16)
    reports.write(EpochReport(epoch, 0, 1, STEPS, layout, EpochStats(epoch), None), 1000, 0, 1)


def test_a_report_that_cannot_be_written_is_told_and_no_error(caplog):
    reports = WorkerReports()
    with files_up_to(10):
        tell(reports, 7)
    assert "epoch 7 of a DataLoader's workers will not be reported" in caplog.text
    assert reports.epochs() == []


def test_old_epochs_go_even_while_they_are_read(monkeypatch):
    reports, read = WorkerReports(), worker_reports._read
    for epoch in (1, 2, KEPT + 1):
        tell(reports, epoch)
    assert [report.epoch for report in reports.epochs()] == [2, KEPT + 1]

    def late(path):
        tell(reports, KEPT + 2)
        return read(path)

    monkeypatch.setattr(worker_reports, "_read", late)
    assert [report.epoch for report in reports.epochs()] == [KEPT + 1]
