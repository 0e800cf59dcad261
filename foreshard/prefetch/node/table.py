"""The state that processes share: a file of fixed size, mapped, with a ledger, participants and a table of chunks.

It holds columns of plain integers. A chunk may lie in any of the `WAYS` slots of the bucket that its checksum
names; nothing is ever moved, and a slot counts once its `state` is set, which is the last write of `fill` and the first
of `empty`: whoever dies in between leaves a table that can be read.
"""

import mmap
import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.prefetch.node.folder import FORMAT
from foreshard.prefetch.node.keys import KEY_BYTES, size_of

WAYS: Final = 16
PARTICIPANTS: Final = 1024

EMPTY: Final = 0
FETCHING: Final = 1
PRESENT: Final = 2

# Positions in the head.
_MAGIC, _FORMAT, _BUDGET, _SLOTS, USED, TRIAL, CLOCK, TOKEN, DIRTY, HOLDER, PAUSED_NS = range(11)

_MAGIC_VALUE: Final = 0x66736E6F6465
_HEAD: Final = 64
_FEWEST, _MOST, _BLOCK = 1 << 10, 1 << 22, 1 << 20


def slots_for(budget: int, typical: int) -> int:
    """Return the slots for a budget: at least two for each chunk of typical size."""
    wanted = -(-2 * budget // typical)
    return min(max(1 << (wanted - 1).bit_length(), _FEWEST), _MOST)


class Table:
    """A mapped state file; all methods but `look` and `holds` are called under the folder's lock.

    Args:
        path: the file.

    Attributes:
        head: int64 (64,), ledger and flags, by the positions above.
        pids: int64 (PARTICIPANTS,), process of each participant, 0 for none.
        nonces: int64 (PARTICIPANTS,), what tells it from others with its number, before or after it.
        populations: int64 (PARTICIPANTS,), chunks that it reads again and again; 0 if that is not known.
        state: uint8 (s,).
        trial: uint8 (s,), 1 for a chunk that is on trial, see `Ledger`.
        owner: int32 (s,), participant that fetches it.
        nbytes: int64 (s,), bytes charged to the ledger.
        last_use: int64 (s,), by the head's clock.
        deadline_ns: int64 (s,), when the fetch may be taken over, by `time.monotonic_ns`.
        token: int64 (s,), grows with every fetch: which of them this is.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            if size < _HEAD * 8:
                raise ValueError(f"{size} bytes are no state")
            self._map = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        self.head: NDArray[np.int64] = self._column(np.int64, _HEAD, 0)
        self.slots = int(self.head[_SLOTS])
        stated = int(self.head[_MAGIC]), int(self.head[_FORMAT]), _size(self.slots)
        if stated != (_MAGIC_VALUE, FORMAT, size):
            raise ValueError(f"{stated} is not the head of a state of {size} bytes")
        at, n = _HEAD * 8, self.slots
        self.pids: NDArray[np.int64] = self._column(np.int64, PARTICIPANTS, at)
        self.nonces: NDArray[np.int64] = self._column(np.int64, PARTICIPANTS, at + 8 * PARTICIPANTS)
        self.populations: NDArray[np.int64] = self._column(np.int64, PARTICIPANTS, at + 16 * PARTICIPANTS)
        at += 24 * PARTICIPANTS
        self.nbytes: NDArray[np.int64] = self._column(np.int64, n, at)
        self.last_use: NDArray[np.int64] = self._column(np.int64, n, at + 8 * n)
        self.deadline_ns: NDArray[np.int64] = self._column(np.int64, n, at + 16 * n)
        self.token: NDArray[np.int64] = self._column(np.int64, n, at + 24 * n)
        self.owner: NDArray[np.int32] = self._column(np.int32, n, at + 32 * n)
        self.state: NDArray[np.uint8] = self._column(np.uint8, n, at + 36 * n)
        self.trial: NDArray[np.uint8] = self._column(np.uint8, n, at + 37 * n)
        self._keys_at = at + 38 * n

    @classmethod
    def create(cls, path: Path, budget: int, slots: int) -> "Table":
        """Make an empty table in place of whatever is there; who has the old one mapped keeps it."""
        new = path.with_name(path.name + ".new")
        head = np.zeros(_HEAD, np.int64)
        head[[_MAGIC, _FORMAT, _BUDGET, _SLOTS, CLOCK]] = _MAGIC_VALUE, FORMAT, budget, slots, 1
        # Zeros are written, as touching a page of a hole for which a full disk has no room kills the process.
        with new.open("wb") as file:
            file.write(head.tobytes())
            left = _size(slots) - head.nbytes
            while left:
                left -= file.write(bytes(min(left, _BLOCK)))
        new.replace(path)
        return cls(path)

    def _column(self, dtype: type[np.generic], count: int, at: int) -> NDArray[Any]:
        return np.frombuffer(self._map, dtype, count, at)

    @property
    def budget(self) -> int:
        """Bytes that may be reserved."""
        return int(self.head[_BUDGET])

    @property
    def used(self) -> int:
        """Bytes reserved, by chunks on disk and on their way."""
        return int(self.head[USED])

    @property
    def paused(self) -> bool:
        """Whether nothing is to be written, as the disk was full a while ago."""
        return bool(self.head[PAUSED_NS] > time.monotonic_ns())

    def pause(self, seconds: float) -> None:
        """Let nobody write for so long."""
        self.head[PAUSED_NS] = time.monotonic_ns() + int(seconds * 1e9)

    # -- slots ----------------------------------------------------------------------------------------
    def bucket(self, key: bytes) -> int:
        """Return the first of the slots that a chunk may lie in."""
        return int.from_bytes(key[16:24], "little") % (self.slots // WAYS) * WAYS

    def find(self, key: bytes) -> int:
        """Return a chunk's slot, -1 if it has none."""
        at = self._keys_at + self.bucket(key) * KEY_BYTES
        end = at + WAYS * KEY_BYTES
        while (at := self._map.find(key, at, end)) >= 0:
            slot, rest = divmod(at - self._keys_at, KEY_BYTES)
            if not rest and self.state[slot] != EMPTY:
                return slot
            at += 1
        return -1

    def key(self, slot: int) -> bytes:
        """Return the key of a slot's chunk."""
        at = self._keys_at + slot * KEY_BYTES
        return self._map[at : at + KEY_BYTES]

    def vacant(self, key: bytes) -> int:
        """Return an empty slot for a chunk, -1 if its bucket is full."""
        first = self.bucket(key)
        free = np.flatnonzero(self.state[first : first + WAYS] == EMPTY)
        return first + int(free[0]) if len(free) else -1

    def tick(self) -> int:
        """Return the next time of the clock by which uses are ordered."""
        self.head[CLOCK] += 1
        return int(self.head[CLOCK])

    def fill(self, slot: int, key: bytes, state: int, *, trial: bool = False) -> None:
        """Put a chunk into an empty slot and charge its bytes.

        Args:
            slot: the slot; of one that is to be fetched, `lend` says by whom.
            key: the chunk.
            state: `FETCHING` or `PRESENT`.
            trial: whether it is on trial.
        """
        at = self._keys_at + slot * KEY_BYTES
        self._map[at : at + KEY_BYTES] = key
        self.nbytes[slot], self.trial[slot] = size_of(key), trial
        self.last_use[slot] = self.tick()
        self.lend(slot, -1, 0)
        self._charge(slot, 1)
        self.state[slot] = state

    def lend(self, slot: int, owner: int, deadline_ns: int) -> int:
        """Give a slot's fetch to a participant, and return the slot's new token."""
        self.head[TOKEN] += 1
        self.owner[slot], self.deadline_ns[slot] = owner, deadline_ns
        self.token[slot] = self.head[TOKEN]
        return int(self.token[slot])

    def empty(self, slot: int) -> None:
        """Take a chunk out and give its bytes back."""
        self.state[slot] = EMPTY
        self._charge(slot, -1)

    def _charge(self, slot: int, sign: int) -> None:
        self.head[USED] += sign * self.nbytes[slot]
        if self.trial[slot]:
            self.head[TRIAL] += sign * self.nbytes[slot]

    def recount(self) -> None:
        """Set the ledger to what the slots say."""
        taken = np.where(self.state != EMPTY, self.nbytes, 0)
        self.head[[USED, TRIAL]] = taken.sum(), (taken * self.trial).sum()

    # -- without the lock -----------------------------------------------------------------------------
    def look(self, key: bytes) -> tuple[int, int, int]:
        """Return state, owner and deadline of a chunk as they are at the moment."""
        slot = self.find(key)
        if slot < 0:
            return EMPTY, -1, 0
        return int(self.state[slot]), int(self.owner[slot]), int(self.deadline_ns[slot])

    def holds(self, slot: int, token: int, state: int) -> bool:
        """Whether a slot is in this state and nothing happened to it since it had this token."""
        return int(self.token[slot]) == token and int(self.state[slot]) == state


def _size(slots: int) -> int:
    return _HEAD * 8 + 24 * PARTICIPANTS + (38 + KEY_BYTES) * slots
