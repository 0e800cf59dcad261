"""Who may fetch what into which bytes: the rules over the shared table, the same whatever process applies them."""

import time
from collections import deque
from typing import Final

import numpy as np

from foreshard.prefetch.node.folder import Folder, remove
from foreshard.prefetch.node.keys import size_of
from foreshard.prefetch.node.participants import Participants
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.node.table import DIRTY, EMPTY, FETCHING, PRESENT, WAYS, Table

_VICTIMS: Final = 256


class Ledger:
    """The table's rules; all methods but `lapsed` are called under the folder's lock.

    Args:
        folder: where the files are.
        table: the state.
        stats: counters of this process.
    """

    def __init__(self, folder: Folder, table: Table, stats: NodeStats) -> None:
        self.table, self.participants = table, Participants(folder, table)
        self._folder, self._stats = folder, stats
        self._victims: deque[tuple[int, int]] = deque()  # (slot, last use), those unused for longest first

    # -- fetches --------------------------------------------------------------------------------------
    def lapsed(self, owner: int, deadline_ns: int) -> bool:
        """Whether a fetch may be taken over: its participant has died, or takes too long."""
        return time.monotonic_ns() > deadline_ns or not self.participants.alive(owner)

    def admit(self, key: bytes, owner: int, lease_s: float) -> tuple[int, int, int]:
        """Return slot, state and token of a chunk, as the table has it or after reserving its bytes for a participant.

        Args:
            key: the chunk.
            owner: who would fetch it.
            lease_s: seconds it would have for that.

        Returns:
            `PRESENT`; or `FETCHING`, with the token of a new fetch that is now the owner's, or 0 for somebody else's;
            or `EMPTY` if there is no room.
        """
        table, deadline_ns = self.table, time.monotonic_ns() + int(lease_s * 1e9)
        slot = table.find(key)
        if slot >= 0 and table.state[slot] == PRESENT:
            table.last_use[slot] = table.tick()
            return slot, PRESENT, int(table.token[slot])
        if slot >= 0:
            other = int(table.owner[slot])
            if not self.lapsed(other, int(table.deadline_ns[slot])):
                return slot, FETCHING, 0
            self._stats.stolen += 1
            if self.participants.alive(other):
                return slot, FETCHING, table.lend(slot, owner, deadline_ns)
            self.bury(other)
        if table.paused or not self._make_room(key):
            return -1, EMPTY, 0
        slot = table.vacant(key)
        return slot, FETCHING, table.fill(slot, key, FETCHING, owner=owner, deadline_ns=deadline_ns)

    def bury(self, participant: int) -> None:
        """Give back what a participant had reserved that has died or leaves, and strike it off the list."""
        table = self.table
        for slot in np.flatnonzero((table.state == FETCHING) & (table.owner == participant)).tolist():
            table.empty(slot)
        table.pids[participant] = 0
        self._folder.sweep_parts(self.participants.living_nonces())

    def bury_dead(self) -> bool:
        """Bury all participants that have died; return whether there were any."""
        dead = [index for index in self.participants.listed() if not self.participants.alive(index)]
        for index in dead:
            self.bury(index)
        return bool(dead)

    # -- room -----------------------------------------------------------------------------------------
    def _make_room(self, key: bytes) -> bool:
        """Remove chunks until a chunk fits the budget and its bucket; False if what is left is on its way."""
        table, nbytes = self.table, size_of(key)
        if nbytes > table.budget:
            return False
        while table.used + nbytes > table.budget:
            if not self._evict_oldest() and not self.bury_dead():
                return False
        if table.vacant(key) < 0:
            slots = np.arange(WAYS) + table.bucket(key)
            present = slots[table.state[slots] == PRESENT]
            if not len(present):
                return False
            self._evict(int(present[table.last_use[present].argmin()]))
        return True

    def _evict_oldest(self) -> bool:
        """Remove the chunk unused for longest; False if there is none."""
        table = self.table
        for attempt in range(2):
            while self._victims:
                slot, used = self._victims.popleft()
                if table.state[slot] == PRESENT and table.last_use[slot] == used:
                    self._evict(slot)
                    return True
            if attempt == 0:  # whatever was used or came since then is younger than all that were found
                present = np.flatnonzero(table.state == PRESENT)
                used = table.last_use[present]
                if len(present) > _VICTIMS:
                    oldest = np.argpartition(used, _VICTIMS)[:_VICTIMS]
                    present, used = present[oldest], used[oldest]
                order = np.argsort(used)
                self._victims.extend(zip(present[order].tolist(), used[order].tolist(), strict=True))
        return False

    def _evict(self, slot: int) -> None:
        remove(self._folder.chunk(self.table.key(slot)))
        self.table.empty(slot)
        self._stats.evicted += 1

    def forget(self, slot: int) -> None:
        """Remove a chunk that cannot be read."""
        remove(self._folder.chunk(self.table.key(slot)))
        self.table.empty(slot)

    # -- agreement of table and folder ------------------------------------------------------------------
    def reconcile(self) -> None:
        """Make table, ledger and folder agree: when the first comes, and after somebody died while changing them."""
        table = self.table
        table.recount()
        self.bury_dead()
        files = {key: (size, written) for key, size, written in self._folder.chunks()}
        for slot in np.flatnonzero(table.state == PRESENT).tolist():
            key = table.key(slot)
            if files.pop(key, (-1, 0))[0] != size_of(key):
                self.forget(slot)
        for slot in np.flatnonzero(table.state == FETCHING).tolist():
            files.pop(table.key(slot), None)  # about to be written
            if not self.participants.alive(int(table.owner[slot])):
                table.empty(slot)
        for key, (size, _) in sorted(files.items(), key=lambda item: item[1][1]):
            self._adopt(key, size)
        while table.used > table.budget and self._evict_oldest():
            pass
        self._folder.sweep_parts(self.participants.living_nonces())
        table.head[DIRTY] = 0

    def _adopt(self, key: bytes, size: int) -> None:
        """Take a file into the table that it does not know, or remove it."""
        if size != size_of(key) or not self._make_room(key):
            remove(self._folder.chunk(key))
        else:
            self.table.fill(self.table.vacant(key), key, PRESENT)
