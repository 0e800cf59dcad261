"""Memory of large batches is used again, but never while anybody can still see what was in it."""

import gc
import threading

import numpy as np
import pyarrow as pa

from foreshard.prefetch.recycling import LEAST, Recycler


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_its_last_view_is_gone():
    memory = Recycler()
    first = memory.take(LEAST)
    at = address(first)
    column = pa.Array.from_buffers(pa.uint8(), LEAST, [None, pa.py_buffer(first)])
    view = column.slice(10, 20).to_numpy()
    del first, column
    second = memory.take(LEAST)
    assert address(second) != at
    view_at = view.tolist()
    second[:] = 77
    assert view.tolist() == view_at
    del view
    gc.collect()
    assert address(memory.take(LEAST)) == at


def test_small_memory_and_memory_of_another_size_is_not_kept():
    memory = Recycler()
    memory.take(LEAST - 1)
    gc.collect()
    assert not memory._free
    memory.take(16 * LEAST)
    gc.collect()
    assert len(memory._free) == 1
    assert memory.take(LEAST).base is not None
    assert sum(map(len, memory._free)) <= 2 * LEAST


def test_threads_never_get_the_same_memory_at_a_time():
    memory, wrong = Recycler(), []

    def run(mark):
        for _ in range(200):
            mine = memory.take(LEAST)
            mine[::4096] = mark
            if (mine[::4096] != mark).any():
                wrong.append(mark)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(memory._free) <= 4
    assert np.sum([len(whole) for whole in memory._free]) <= 4 * 2 * LEAST
