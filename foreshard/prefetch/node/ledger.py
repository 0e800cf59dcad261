"""Who may fetch what into which bytes: the rules over the shared table, the same whatever process applies them."""

import time
from collections import deque
from typing import Final

import numpy as np

from foreshard.prefetch.node.folder import Folder, remove
from foreshard.prefetch.node.keys import size_of
from foreshard.prefetch.node.participants import Participants
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.node.table import CLOCK, DIRTY, EMPTY, FETCHING, PRESENT, TRIAL, WAYS, Table

_VICTIMS: Final = 256
_TRIAL_SHARE: Final = 8
_ROUNDS: Final = 2


class Ledger:
    """The table's rules; all methods but `lapsed` are called under the folder's lock.

    The chunk unused for longest makes room, unless it may still be wanted: an epoch in random order reads every chunk
    once, so one that was not used for two epochs of all participants is of no use any more (it may be of an old
    layout), and any other is as good as the one that comes. That one is then on trial: such chunks hold an eighth of
    the budget and make room for each other. In this way nearly as many of an epoch's chunks are found again as fit;
    with half of them fitting, the least recently used going first would leave a seventh. Chunks on trial stay long
    enough for processes that want them at about the same time.

    Args:
        folder: where the files are.
        table: the state.
        stats: counters of this process.
    """

    def __init__(self, folder: Folder, table: Table, stats: NodeStats) -> None:
        self.table, self.participants = table, Participants(folder, table)
        self._folder, self._stats = folder, stats
        # (slot, last use), those unused for longest first; of chunks that stay, and of those on trial.
        self._victims: tuple[deque[tuple[int, int]], ...] = deque(), deque()

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
        trial = None if table.paused else self._make_room(key)
        if trial is None:
            return -1, EMPTY, 0
        slot = table.vacant(key)
        table.fill(slot, key, FETCHING, trial=trial)
        return slot, FETCHING, table.lend(slot, owner, deadline_ns)

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
    def _make_room(self, key: bytes) -> bool | None:
        """Remove chunks until a chunk fits the budget and its bucket.

        Returns:
            Whether it is on trial; None if it does not fit, as what is left is on its way.
        """
        table, nbytes, trial = self.table, size_of(key), False
        if nbytes > table.budget:
            return None
        while table.used + nbytes > table.budget:
            victim, fresh = self._victim(nbytes)
            if victim >= 0:
                self._evict(victim)
                trial |= fresh
            elif not self.bury_dead():
                return None
        if table.vacant(key) < 0:
            slots = np.arange(WAYS) + table.bucket(key)
            present = slots[table.state[slots] == PRESENT]
            if not len(present):
                return None
            self._evict(int(present[table.last_use[present].argmin()]))
        return trial

    def _victim(self, nbytes: int) -> tuple[int, bool]:
        """Return the slot of a chunk to remove, -1 for none, and whether what comes instead is to be on trial."""
        table = self.table
        staying = self._oldest(0)
        if staying >= 0 and table.head[CLOCK] - table.last_use[staying] >= _ROUNDS * self.participants.round():
            return staying, False
        on_trial = self._oldest(1)
        full = table.head[TRIAL] + nbytes > table.budget // _TRIAL_SHARE
        return (on_trial if on_trial >= 0 and (full or staying < 0) else staying), True

    def _oldest(self, trial: int) -> int:
        """Return the slot of the chunk unused for longest among those that stay or those on trial; -1 for none."""
        table, victims = self.table, self._victims[trial]
        for attempt in range(2):
            while victims:
                slot, used = victims[0]
                if table.state[slot] == PRESENT and table.last_use[slot] == used:
                    return slot
                victims.popleft()
            if attempt == 0:  # whatever was used or came since then is younger than all that were found
                present = np.flatnonzero((table.state == PRESENT) & (table.trial == trial))
                used = table.last_use[present]
                if len(present) > _VICTIMS:
                    oldest = np.argpartition(used, _VICTIMS)[:_VICTIMS]
                    present, used = present[oldest], used[oldest]
                order = np.argsort(used)
                victims.extend(zip(present[order].tolist(), used[order].tolist(), strict=True))
        return -1

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
        while table.used > table.budget and (victim := self._victim(0)[0]) >= 0:
            self._evict(victim)
        self._folder.sweep_parts(self.participants.living_nonces())
        table.head[DIRTY] = 0

    def _adopt(self, key: bytes, size: int) -> None:
        """Take a file into the table that it does not know, or remove it."""
        if size != size_of(key) or self._make_room(key) is None:
            remove(self._folder.chunk(key))
        else:
            self.table.fill(self.table.vacant(key), key, PRESENT)
