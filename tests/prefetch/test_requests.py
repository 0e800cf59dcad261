"""Chunks that follow each other come in one request, as large as there is room for several of them at a time."""

import numpy as np
import pytest

from foreshard.prefetch.concurrency import START, Concurrency
from foreshard.prefetch.intake import Intake
from foreshard.prefetch.queue import Request
from foreshard.prefetch.region import Region
from foreshard.prefetch.requests import RUN_TOUCHES, Requests
from foreshard.prefetch.schedule import Touches

CHUNKS, SIZE, MOST = 40, 10, 80
NBYTES = np.full(CHUNKS, SIZE, np.int64)
FOLLOWING = np.append(np.arange(1, CHUNKS, dtype=np.int32), np.int32(-1))


def touches(chunks):
    """One touch a step; what it does there does not matter."""
    steps, nothing = np.arange(len(chunks), dtype=np.int32), np.zeros(0, np.int32)
    offsets = np.arange(len(chunks) + 1)
    return Touches(steps, offsets, np.array(chunks, np.int32), offsets, nothing, nothing, offsets, nothing, nothing)


def requests(following=FOLLOWING, most=64):
    return Requests(Concurrency(most), following, MOST)


def runs(made, wanted):
    """What threads take of the touches of some chunks until nothing is left."""
    intake = Intake(Region(100 * SIZE, SIZE), NBYTES, made)
    intake.queue.push(Request(forecast=False, rank=rank, chunk=chunk) for rank, chunk in enumerate(wanted))
    taken = []
    while run := intake.take():
        taken.append([request.chunk for request in run])
    return taken


def test_neighbours_that_are_wanted_at_about_the_same_time_come_together():
    assert runs(requests(), [*range(3, 8), 20, 21]) == [[3, 4, 5, 6, 7], [20, 21]]
    far = [0, *range(20, 20 + 10), *[30] * RUN_TOUCHES, 1]
    assert runs(requests(), far)[-1] == [1]
    assert runs(requests(following=None), [3, 4]) == [[3], [4]]


def test_a_request_is_no_larger_than_allowed():
    assert [len(run) for run in runs(requests(), range(20))] == [8, 8, 4]


@pytest.mark.parametrize(("ahead", "chunks"), [(1000, 8), (320, 8), (200, 5), (100, 2), (40, 1), (7, 1)])
def test_there_is_room_for_as_many_requests_as_any_store_is_asked_for(ahead, chunks):
    made = requests()
    made.bound(ahead, touches(range(40)), NBYTES)
    assert len(runs(made, range(20))[0]) == chunks
    assert START <= made.control.bound <= max(ahead // (chunks * SIZE), START)
    made.bound(1000, touches(range(40)), NBYTES)
    assert len(runs(made, range(20))[0]) == 8, "what there was no room for at one time comes again"


def test_room_is_asked_for_twice_what_is_in_flight():
    assert requests().room(touches(range(40)), NBYTES) == 2 * START * MOST
    assert requests().room(touches(range(0, 40, 2)), NBYTES) == 2 * START * SIZE
    assert requests(following=None).room(touches(range(40)), NBYTES) == 2 * START * SIZE
    assert requests().room(touches([]), NBYTES) == 0
