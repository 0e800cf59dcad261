"""The benchmark of re-sharding trains on one stream before and after, and its images are those of MNIST's files."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import mnist
from benchmarks.learning import Learner, flights, pictures
from benchmarks.reshard_gain import Study


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Sources are made in a temporary folder of this test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_skewed_training_reads_less_after_a_reshard_and_even_training_keeps_its_layout(temporary):
    task = flights(12_000)
    gains = {}
    for skewed in (True, False):
        study = Study(task, skewed=skewed, url=(temporary / f"store-{skewed}").as_uri())
        gains[skewed] = study.measure(1)  # asserts that both layouts give the same stream and model
        assert study.before != study.after
    assert gains[True].figures["decision"] == "reshard", gains[True].figures["reason"]
    assert gains[True].figures["draws_of_top_tenth"] > 0.5
    assert gains[True].nbytes.median < 0.9
    assert gains[False].figures["decision"] == "keep", gains[False].figures["reason"]
    assert gains[False].nbytes.median == pytest.approx(1, abs=0.05)


def idx(array):
    """The IDX file of an array of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def test_idx_files_are_read_and_others_refused():
    values = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(mnist.read_idx(idx(values)), values)
    with pytest.raises(ValueError, match=r"the shape \[2, 3, 4\] has 23 bytes"):
        mnist.read_idx(idx(values)[:-1])
    with pytest.raises(ValueError, match="begins with 1f 8b"):
        mnist.read_idx(b"\x1f\x8b\x08\x00")


@pytest.mark.usefixtures("temporary")
def test_images_come_out_of_parquet_as_they_went_in_and_can_be_learnt(monkeypatch):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 200).astype(np.uint8)
    drawn = np.zeros((200, 28, 28), np.uint8)
    for picture, label in zip(drawn, labels, strict=True):
        picture[label : label + 5, 3:9] = 200
    monkeypatch.setattr(mnist, "_fetch", lambda: [drawn, labels])
    task = pictures(150)
    table = pq.read_table(task.source)
    assert table.num_rows == 150
    assert (table.column("width").to_numpy() == 6).all()
    assert (table.column("height").to_numpy() == 5).all()
    np.testing.assert_allclose(table.column("ink").to_numpy(), 200 * 30 / 784, rtol=1e-6)
    rows = {name: table.column(name).to_numpy(zero_copy_only=False) for name in task.columns}
    x, y = task.design(rows)
    np.testing.assert_array_equal(np.round(x * 255), drawn[:150].reshape(150, -1))
    np.testing.assert_array_equal(y, labels[:150])
    learner = Learner(task)
    for _ in range(20):
        learner.learn(rows)
    assert learner.losses(rows).mean() < np.log(10) / 2
