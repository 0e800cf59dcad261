"""The doctor's three runs read what they say they read, and each cause of slowness is found by its name."""

from contextlib import closing

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import CountingStore

from foreshard.errors import ConfigError
from foreshard.loader.batch import Batch
from foreshard.loader.doctor import Case, Diagnosis, Examination, Phase, advise
from foreshard.loader.doctor.examination import run_loop
from foreshard.loader.doctor.streams import CycleOrder, RunOrder, fitting_batches, neighbour_chunks
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, SequentialOrder, UniformOrder
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.repository import Repository

MB = 1_000_000
LEAD, STEPS, BATCH = 4, 50, 64


# -- what time goes into, on a clock of our own ----------------------------------------------------------


class Machine:
    """A machine whose clock moves by what is done on it alone.

    Attributes:
        compute_s: seconds of a step's compute.
        prep_s: seconds that a batch is waited for with its data in memory.
        fetch_s: seconds that it is waited for beyond that when they are not.
        slower_s: seconds that a step takes longer while batches are made beside it.
    """

    def __init__(self, *, compute_s=0.0, prep_s=0.0, fetch_s=0.0, slower_s=0.0):
        self.compute_s, self.prep_s, self.fetch_s, self.slower_s = compute_s, prep_s, fetch_s, slower_s
        self.now = 1000.0

    def phase(self, name, made):
        """Run the loop with batches that are `there`, `warm` or `cold`."""
        batch = Batch(1, 0, np.arange(BATCH), np.arange(BATCH), np.empty(BATCH * 1000, np.uint8))
        lead = 0 if made == "there" else LEAD

        def batches():
            while True:
                self.now += {"there": 0.0, "warm": self.prep_s, "cold": self.prep_s + self.fetch_s}[made]
                yield batch

        def sleep(seconds):
            self.now += seconds + (self.slower_s if made != "there" else 0.0)

        timed = run_loop(batches(), lead, STEPS, self.compute_s, clock=lambda: self.now, sleep=sleep)
        stats = None if made == "there" else EpochStats(1, steps=lead + STEPS, samples=(lead + STEPS) * BATCH)
        return Phase(
            name, lead, STEPS, timed.samples, timed.nbytes, timed.seconds, timed.waited_s, timed.first_s, timed.total_s,
            0 if made == "there" else 10 * MB, stats,
        )  # fmt: skip

    def diagnose(self):
        phases = (("compute only", "there"), ("all in memory", "warm"), ("cold", "cold"))
        return Diagnosis(case(step_s=self.compute_s), *(self.phase(*each) for each in phases))


def case(**changes):
    told = {
        "layout": "demo.e000000/1",
        "order": "uniform",
        "batch": BATCH,
        "step_s": 0.01,
        "concurrency": 4,
        "local": False,
        "all_columns": False,
        "columns": 20,
        "sample_bytes": 1000.0,
        "largest": MB,
        "cold_bytes": 50 * MB,
        "neighbour_chunks": 2.0,
        "caches": "",
    }
    return Case(**{**told, **changes})


CASES = {
    "compute": {"compute_s": 0.01, "prep_s": 0.001, "fetch_s": 0.002},
    "prep": {"compute_s": 0.01, "prep_s": 0.02, "fetch_s": 0.002},
    "fetch": {"compute_s": 0.01, "prep_s": 0.001, "fetch_s": 0.05},
    "contention": {"compute_s": 0.01, "prep_s": 0.001, "fetch_s": 0.002, "slower_s": 0.03},
}


@pytest.mark.parametrize("cause", CASES)
def test_what_slows_a_loop_is_found_to_be_its_bottleneck_and_measured(cause):
    told = CASES[cause]
    diagnosis = Machine(**told).diagnose()
    assert diagnosis.bottleneck == cause
    want = {"compute": told["compute_s"], "prep": told["prep_s"], "fetch": told["fetch_s"]}
    assert diagnosis.parts_s == pytest.approx({**want, "contention": told.get("slower_s", 0.0)}, abs=1e-9)
    assert sum(diagnosis.parts_s.values()) == pytest.approx(diagnosis.cold.step_s)
    assert sum(diagnosis.shares.values()) == pytest.approx(1)


def test_a_slower_machine_during_one_run_is_no_stall():
    """A loop that waits for nothing has no stall, however long its steps take beside the loader."""
    parts = Machine(compute_s=0.01, slower_s=0.05).diagnose().parts_s
    assert parts["prep"] == parts["fetch"] == 0


def test_a_cold_run_that_waits_less_than_the_warm_one_has_no_fetch_stall_and_no_negative_part():
    diagnosis = Machine(compute_s=0.01, prep_s=0.02, fetch_s=-0.015).diagnose()
    assert diagnosis.parts_s == pytest.approx({"compute": 0.01, "prep": 0.005, "fetch": 0.0, "contention": 0.0})


def test_a_loop_without_compute_waits_for_batches_alone():
    diagnosis = Machine(prep_s=0.003, fetch_s=0.001).diagnose()
    assert diagnosis.shares == pytest.approx({"compute": 0, "prep": 0.75, "fetch": 0.25, "contention": 0})
    assert Machine().diagnose().shares == {"compute": 1, "prep": 0, "fetch": 0, "contention": 0}


def test_the_lead_is_not_measured_and_progress_reaches_the_end():
    machine, told = Machine(compute_s=0.01), []
    waits = iter([5.0, 3.0, 0.5, 0.25])

    def batches():
        for wait in waits:
            machine.now += wait
            yield Batch(1, 0, np.arange(8), np.arange(8), np.empty(80, np.uint8))

    def sleep(seconds):
        machine.now += seconds

    timed = run_loop(
        batches(), 2, 2, 0.01, lambda done, total: told.append((done, total)), clock=lambda: machine.now, sleep=sleep
    )
    assert (timed.first_s, timed.waited_s, timed.samples, timed.nbytes) == (5.0, 0.75, 16, 160)
    assert timed.seconds == pytest.approx(0.77)
    assert timed.total_s == pytest.approx(3.79)
    assert told[-1] == (4, 4)


# -- what to change ---------------------------------------------------------------------------------------

FETCHING = {"compute_s": 0.01, "fetch_s": 0.05}
PREPARING = {"compute_s": 0.01, "prep_s": 0.05}


def advice(machine, stats=None, **changes):
    """What is advised for a machine, by subject, with other loader's figures."""
    found = Machine(**machine).diagnose()
    figures = {"steps": 54, "samples": 54 * BATCH, "touches": 540, "origin_bytes": 50 * MB, "origin_requests": 50}
    figures = EpochStats(1, **{**figures, **(stats or {})})
    phases = [Phase(**{**phase.__dict__, "stats": figures}) for phase in (found.in_memory, found.cold)]
    told = advise(Diagnosis(case(step_s=machine.get("compute_s", 0.0), **changes), found.compute_only, *phases))
    assert len({each.about for each in told}) == len(told)
    return {each.about: each.text for each in told}


@pytest.mark.parametrize(("compute_s", "prep_s"), [(0.0, 0.0), (0.0, 0.0009), (0.0009, 0.0)])
def test_steps_that_are_over_at_once_tell_nothing_but_how_many_it_takes(compute_s, prep_s):
    machine = {"compute_s": compute_s, "prep_s": prep_s}
    needed = Machine(**machine).diagnose().steps_needed
    assert needed > STEPS
    told = advice(machine)
    assert list(told) == ["steps"]
    assert f"give --steps {needed} or more" in told["steps"]


def test_steps_that_are_few_beside_the_batches_that_wait_tell_nothing():
    found = Machine(compute_s=0.01).diagnose()
    assert not found.steps_needed
    queued = Phase(**{**found.cold.__dict__, "lead": 13})
    assert Diagnosis(found.case, found.compute_only, found.in_memory, queued).steps_needed >= 52


def test_small_sizes_are_told_with_their_digits():
    told = advice(FETCHING, {"origin_bytes": 80_200}, cold_bytes=40_000, largest=1500)["memory"]
    assert told.startswith("40.2 KB of the 80.2 KB fetched")
    assert "with 54.8 KB nothing" in told


def test_a_loop_that_hardly_waits_is_left_alone():
    told = advice({"compute_s": 0.01, "prep_s": 0.0002, "fetch_s": 0.0002})
    assert list(told) == ["nothing"]
    assert "6,154 samples/s" in told["nothing"]


def test_what_is_fetched_twice_asks_for_memory_and_says_how_much():
    told = advice(FETCHING, {"origin_bytes": 80 * MB})
    assert told["memory"].startswith(
        "30.0 MB of the 80.0 MB fetched had been fetched before; raise --memory from 10.0 MB"
    )
    assert "with 67.7 MB nothing of this run" in told["memory"]
    assert "memory" not in advice(FETCHING, {"origin_bytes": 52 * MB})


def test_small_fetches_ask_for_larger_chunks_unless_the_store_is_a_local_folder():
    small = {"origin_requests": 2000}
    assert "25.0 KB" in advice(FETCHING, small)["chunks"]
    assert "chunks" not in advice(FETCHING, small, local=True)
    assert "chunks" not in advice(FETCHING, {"origin_requests": 50})


def test_bytes_that_no_sample_needs_ask_for_an_order_by_blocks_where_that_would_help():
    told = advice(FETCHING)["order"]
    assert told.startswith("14.5 bytes were fetched for every byte of a sample, as a batch of 64 touches 10 chunks")
    assert "--order block" in told
    scattered = advice(FETCHING, neighbour_chunks=9.0)["order"]
    assert "--order block" not in scattered
    assert "--order block" not in advice(FETCHING, order="block_shuffle")["order"]
    assert "order" not in advice(FETCHING, sample_bytes=10_000.0)


def test_whoever_waits_for_fetches_is_told_to_try_more_of_them():
    told = advice(FETCHING, concurrency=4)
    assert "4 fetches in flight" in told["concurrency"]
    assert "--concurrency 8" in told["concurrency"]
    assert "concurrency" not in advice(PREPARING)


def test_slow_preparation_asks_for_fewer_columns_longer_runs_or_more_threads():
    assert "all 20 columns" in advice(PREPARING, all_columns=True)["columns"]
    assert "columns" not in advice(PREPARING, all_columns=True, columns=3)
    assert "columns" not in advice(PREPARING)
    assert "waits 50.00 ms a step" in advice(PREPARING)["threads"]
    scattered = advice(PREPARING, {"touches": 54 * 60})
    assert "gathered from 60 chunks; --order block gathers longer runs from about 2" in scattered["order"]
    assert "order" not in advice(PREPARING, {"touches": 54 * 60}, neighbour_chunks=50.0)


def test_a_step_that_is_slower_beside_the_loader_asks_for_a_core():
    told = advice({"compute_s": 0.01, "slower_s": 0.01})
    assert list(told) == ["cores"]
    assert "10.00 ms longer" in told["cores"]


def test_what_costs_most_is_named_first():
    first = advice({"compute_s": 0.01, "prep_s": 0.03, "fetch_s": 0.02, "slower_s": 0.01})
    assert [name for name in first if name in ("threads", "concurrency", "cores")] == [
        "threads",
        "concurrency",
        "cores",
    ]
    other = advice({"compute_s": 0.01, "prep_s": 0.02, "fetch_s": 0.03})
    assert list(other).index("concurrency") < list(other).index("threads")


def test_without_compute_the_steps_that_hide_each_stall_are_told():
    told = advice({"prep_s": 0.003, "fetch_s": 0.004})
    assert "steps of 3.00 ms and more hide the preparation, and steps of 7.00 ms" in told["step"]


# -- what the runs read -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("doctor"), 800)
    publish(data, 0, seed=1)
    return data


def examine(dataset, memory, **settings):
    store = CountingStore(dataset.repository.store)
    options = LoaderOptions(16, memory=memory, queue_batches=4)
    order = settings.pop("order", UniformOrder(dataset.train_ids, 3))
    return Examination(Repository(store, "demo"), order, options, **{"steps": 60, **settings}), store


def test_the_run_from_memory_fetches_every_chunk_once_and_nothing_while_it_is_measured(dataset):
    exam, store = examine(dataset, 8000)
    exam.compute_only()
    before, phase, manifest = store.served, exam.in_memory(), exam.manifest
    count, used = fitting_batches(exam._order, 16, 60, manifest.chunk_of, manifest.nbytes, exam.memory // 2)
    assert count >= 1
    assert store.served - before == phase.stats.origin_bytes == used
    assert phase.stats.steps == phase.lead + 60
    assert phase.lead >= count
    assert phase.samples == 60 * 16


def test_a_batch_that_does_not_fit_gets_the_memory_it_needs_in_the_run_from_memory_alone(dataset):
    exam, _ = examine(dataset, 2 * int(dataset.repository.open().nbytes.max()))
    phase = exam.in_memory()
    assert phase.memory > exam.memory
    assert phase.stats.hits >= phase.stats.touches * 60 / 61
    assert exam.cold().memory == exam.memory


def test_the_cold_run_with_enough_memory_fetches_each_chunk_once_and_with_less_some_again(dataset):
    little, _ = examine(dataset, 4000)
    phases = little.compute_only(), little.in_memory(), little.cold()
    diagnosis = little.diagnose(*phases)
    assert phases[0].stats is None
    assert phases[2].stats.origin_bytes > 1.1 * diagnosis.case.cold_bytes
    enough, store = examine(dataset, diagnosis.case.enough)
    enough.compute_only()
    before = store.served
    assert enough.cold().stats.origin_bytes == store.served - before == diagnosis.case.cold_bytes


def test_no_more_batches_wait_than_are_left_out_of_what_is_measured(dataset):
    """16 rows take a KB: thousands of such batches may wait for a loop, and would be all that is measured."""
    exam, _ = examine(dataset, 8000)
    assert exam._lead == exam._most == 15
    with closing(exam._loader(exam._run, exam.memory, exam._most)) as loader:
        batches = iter(loader)
        next(batches)
        assert loader._loop.assembler._most() == 15
        batches.close()


def test_without_a_number_of_steps_as_many_are_measured_as_take_a_while(dataset, monkeypatch):
    monkeypatch.setattr("foreshard.loader.doctor.examination._LONG_S", 0.05)
    monkeypatch.setattr("foreshard.loader.doctor.examination._STEPS", 2)
    exam, _ = examine(dataset, 8000, steps=None)
    phases = exam.compute_only(), exam.in_memory(), exam.cold()
    assert phases[0].steps == 2 < phases[1].steps == phases[2].steps
    assert phases[1].seconds >= 0.05


def test_all_runs_read_the_same_number_of_samples_and_change_nothing(dataset):
    before = sorted(meta.key for meta in dataset.repository.store.list(""))
    exam, _ = examine(dataset, 8000)
    phases = exam.compute_only(), exam.in_memory(), exam.cold()
    assert [phase.samples for phase in phases] == [60 * 16] * 3
    assert sorted(meta.key for meta in dataset.repository.store.list("")) == before


def test_orders_by_blocks_are_advised_by_how_the_layout_lies(dataset):
    exam, _ = examine(dataset, 8000, order=BlockShuffleOrder(dataset.train_ids, 1, block=16, window=4))
    diagnosis = exam.diagnose(exam.compute_only(), exam.in_memory(), exam.cold())
    chunk_of = exam.manifest.chunk_of
    whole = [len(set(chunk_of[dataset.train_ids[i : i + 16]])) for i in range(len(dataset.train_ids) - 15)]
    assert min(whole) <= diagnosis.case.neighbour_chunks <= max(whole)
    assert diagnosis.case.order == "block_shuffle"


@pytest.mark.parametrize(("steps", "step_s"), [(0, 0.0), (5, -1.0), (5, float("inf")), (5, float("nan"))])
def test_loops_that_cannot_be_measured_are_refused(dataset, steps, step_s):
    with pytest.raises(ConfigError, match=f"{steps} steps of {step_s} s"):
        examine(dataset, 8000, steps=steps, step_s=step_s)


def test_a_run_is_its_epochs_one_after_the_other_without_their_short_batches():
    ids = np.arange(10) * 3
    run = RunOrder(SequentialOrder(ids), 4, 7)
    assert run.length(1) == 28
    whole = [*ids[:8], *ids[:8], *ids[:8], *ids[:4]]
    assert run.ids(1, 0, 28).tolist() == whole
    for start in range(28):
        assert run.ids(1, start, min(start + 5, 28)).tolist() == whole[start : start + 5]
    with pytest.raises(ConfigError, match="10 samples, fewer than a batch of 11"):
        RunOrder(SequentialOrder(ids), 11, 1)


def test_a_cycle_repeats_its_ids():
    cycle = CycleOrder("uniform", np.array([7, 5, 3]), 8)
    assert cycle.length(1) == 8
    assert cycle.ids(1, 2, 8).tolist() == [3, 7, 5, 3, 7, 5]


def test_batches_are_taken_while_their_chunks_fit_together_and_one_always_is():
    order, chunk_of = SequentialOrder(np.arange(12)), np.repeat(np.arange(6), 2).astype(np.int32)
    nbytes = np.array([10, 20, 30, 40, 50, 60])
    assert fitting_batches(order, 4, 3, chunk_of, nbytes, 99) == (1, 30)
    assert fitting_batches(order, 4, 3, chunk_of, nbytes, 100) == (2, 100)
    assert fitting_batches(order, 4, 2, chunk_of, nbytes, 1000) == (2, 100)
    assert fitting_batches(order, 4, 3, chunk_of, nbytes, 5) == (1, 30)


def test_neighbours_lie_in_few_chunks_if_the_layout_keeps_them_together():
    ids = np.arange(1000)
    assert neighbour_chunks(ids, 10, (ids // 10).astype(np.int32)) == pytest.approx(1.9, abs=0.1)
    assert neighbour_chunks(ids, 10, (ids % 100).astype(np.int32)) == 10
    assert neighbour_chunks(ids[:3], 10, np.zeros(3, np.int32)) == 1
