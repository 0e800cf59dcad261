"""A folder of chunks on this machine's disk that any number of processes fill and read together."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from foreshard.errors import ConfigError, DeadlineError
from foreshard.prefetch.node.folder import Folder, remove
from foreshard.prefetch.node.keys import size_of
from foreshard.prefetch.node.shared import Shared
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.node.table import EMPTY, FETCHING, PRESENT

PAUSE_S: Final = 30.0
"""Seconds for which nothing is written after the disk was full, or the cache not used after its folder failed."""

_PEEK_S: Final = (0.001, 0.02)  # shortest and longest pause between two looks at what another fetches
_LOCK_S: Final = 10.0


@dataclass(frozen=True)
class Claim:
    """What a process may do about a chunk.

    Attributes:
        key: the chunk.
        state: `PRESENT`: read its file. `FETCHING`: fetch it and `publish` or `abandon` it if `token` is above 0, else
            somebody else is fetching it. `EMPTY`: fetch it for yourself.
        slot: its slot.
        token: tells this fetch or file from earlier and later ones.
        until_ns: when others may take the fetch over, by `time.monotonic_ns`.
    """

    key: bytes
    state: int
    slot: int = -1
    token: int = 0
    until_ns: int = 0

    @property
    def present(self) -> bool:
        """Whether it can be read."""
        return self.state == PRESENT

    @property
    def mine(self) -> bool:
        """Whether its fetch is this caller's, for all processes of the machine."""
        return self.state == FETCHING and self.token > 0

    @property
    def elsewhere(self) -> bool:
        """Whether somebody else is fetching it."""
        return self.state == FETCHING and not self.token


class NodeCache:
    """Chunks by content in a folder, under a budget of bytes that all processes share; safe to share by threads.

    A chunk is fetched by whoever claims it first; others wait for its file. What a process had claimed when it died, or
    for longer than `timeout`, goes to whoever wants it next. Bytes are reserved before they are fetched. Trouble with
    the disk is counted and never raised: the cache then says `EMPTY` for a while. A forked child joins as a participant
    of its own with its first use.

    Args:
        folder: on a disk of this machine; made if missing, and else empty or such a cache.
        budget_bytes: bytes of chunks in it, those being written included.
        timeout: seconds that a fetch may take before others do it themselves.
        typical_bytes: usual bytes of a chunk; sizes the table of the first process, so that smaller ones find place.
        population: chunks that this process reads once an epoch. What every participant may still read in this epoch
            or the next is then not given up for what comes, see `Ledger`; with 0 the least recently used goes first.

    Raises:
        ConfigError: the folder cannot be used, or is in use with another budget.
        DeadlineError: its lock was held for too long.
    """

    def __init__(
        self,
        folder: str | Path,
        budget_bytes: int,
        *,
        timeout: float = 60.0,
        typical_bytes: int = 1 << 20,
        population: int = 0,
    ) -> None:
        if budget_bytes <= 0 or timeout <= 0 or typical_bytes <= 0 or population < 0:
            raise ConfigError(
                f"node cache: budget {budget_bytes}, timeout {timeout} and typical size {typical_bytes} must be above "
                f"0, population {population} at least 0"
            )
        self.timeout = timeout
        self._stats = NodeStats()
        self._folder = Folder(folder)
        lock_s = min(timeout, _LOCK_S)
        self._shared = Shared(self._folder, budget_bytes, typical_bytes, population, lock_s, self._stats)
        self._idle_until = 0.0
        try:
            with self._shared.exclusive():
                pass
        except OSError as error:
            raise ConfigError(f"node cache in {str(self._folder.path)!r} cannot be opened: {error}") from error

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder.path

    def claim(self, keys: Sequence[bytes]) -> list[Claim]:
        """Return what to do about chunks, all decided at one moment.

        Claims that are `mine` must be ended by `publish` or `abandon` before this thread waits for anything of others.
        """
        if time.monotonic() >= self._idle_until:
            try:
                with self._shared.exclusive() as ledger:
                    until = time.monotonic_ns() + int(self.timeout * 1e9)
                    found = [ledger.admit(key, self._shared.me, self.timeout) for key in keys]
                return [
                    Claim(k, state, slot, token, until) for k, (slot, state, token) in zip(keys, found, strict=True)
                ]
            except (OSError, DeadlineError) as error:
                self._trouble(error)
        return [Claim(key, EMPTY) for key in keys]

    def read(self, claim: Claim) -> memoryview | None:
        """Return the bytes of a chunk that is present, not verified; None if they cannot be read, which is counted."""
        nbytes = size_of(claim.key)
        array: Any = np.empty(nbytes, np.uint8)  # its stubs for Python 3.11 do not say that it is a buffer
        whole = memoryview(array)
        at = 0
        try:
            handle = os.open(self._folder.chunk(claim.key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                while at < nbytes and (count := os.readv(handle, [whole[at:]])):
                    at += count
            finally:
                os.close(handle)
        except OSError:
            at = -1
        if at == nbytes:
            return whole
        self.damaged(claim)
        return None

    def damaged(self, claim: Claim) -> None:
        """Remove a chunk whose file is missing or does not verify, unless it was written anew since it was claimed."""
        self.count(damaged=1)
        try:
            with self._shared.exclusive() as ledger:
                if ledger.table.holds(claim.slot, claim.token, PRESENT):
                    ledger.forget(claim.slot)
        except (OSError, DeadlineError) as error:
            self._trouble(error)

    def publish(self, claim: Claim, raw: memoryview | bytes) -> bool:
        """Write a chunk that was fetched and verified, and end the claim.

        Returns:
            Whether others can read it: False if the claim was taken over or the disk failed.
        """
        assert len(raw) == size_of(claim.key), f"{len(raw)} bytes for a chunk of {size_of(claim.key)}"
        part = self._folder.part(self._shared.nonce)
        try:
            return self._extended(claim) and self._written(claim, part, raw) and self._placed(claim, part)
        except (OSError, DeadlineError) as error:
            self._trouble(error)
            return False
        finally:
            with suppress(OSError):
                remove(part)

    def abandon(self, claims: Sequence[Claim]) -> None:
        """End claims of this caller whose fetch failed; the next who wants the chunks fetches them."""
        try:
            if claims and self._shared.opened is not None:
                with self._shared.exclusive() as ledger:
                    for claim in claims:
                        if ledger.table.holds(claim.slot, claim.token, FETCHING):
                            ledger.table.empty(claim.slot)
        except (OSError, DeadlineError) as error:
            self._trouble(error)

    def wait(self, claims: Sequence[Claim], until: float) -> None:
        """Wait until a chunk that somebody else fetches has come, or may be taken over.

        Args:
            claims: at least one, all `elsewhere`.
            until: wait no longer, by `time.monotonic`.
        """
        pause, longest = _PEEK_S
        while time.monotonic() < until:
            ledger = self._shared.opened
            if ledger is None:
                return
            owners: set[tuple[int, int]] = set()
            for claim in claims:
                state, owner, deadline_ns = ledger.table.look(claim.key)
                if state != FETCHING:
                    return
                owners.add((owner, deadline_ns))
            if any(ledger.lapsed(owner, deadline_ns) for owner, deadline_ns in owners):
                return
            time.sleep(pause)
            pause = min(1.5 * pause, longest)

    def count(self, **amounts: int) -> None:
        """Add to counters of `NodeStats`."""
        with self._shared.counting:
            for name, amount in amounts.items():
                setattr(self._stats, name, getattr(self._stats, name) + amount)

    def stats(self) -> NodeStats:
        """Return this process's counters as they are now."""
        return replace(self._stats)

    @property
    def used_bytes(self) -> int:
        """Bytes reserved by all processes: chunks in the folder and on their way; 0 while this one has not joined."""
        ledger = self._shared.opened
        return 0 if ledger is None else ledger.table.used

    def close(self) -> None:
        """Give up what this process had claimed and leave; the chunks stay. The cache may be used again."""
        try:
            self._shared.close()
        except (OSError, DeadlineError) as error:
            self._trouble(error)

    # -- inside ---------------------------------------------------------------------------------------
    def _extended(self, claim: Claim) -> bool:
        """Whether a claim still stands; one that has stood for long is prolonged, so that it can be written."""
        ledger = self._shared.opened
        if ledger is None or not ledger.table.holds(claim.slot, claim.token, FETCHING):
            return False
        lease_ns = int(self.timeout * 1e9)
        if claim.until_ns - time.monotonic_ns() > lease_ns // 2:
            return True
        with self._shared.exclusive() as ledger:
            stands = ledger.table.holds(claim.slot, claim.token, FETCHING)
            if stands:
                ledger.table.deadline_ns[claim.slot] = time.monotonic_ns() + lease_ns
            return stands

    def _written(self, claim: Claim, part: Path, raw: memoryview | bytes) -> bool:
        """Write a file; if that fails let no process write for a while, as the disk is full or fails."""
        try:
            _write(part, raw)
        except OSError as error:
            self.count(write_failures=1)
            self._stats.last_trouble = f"a chunk of {len(raw)} bytes could not be written: {error}"
            with self._shared.exclusive() as ledger:
                if ledger.table.holds(claim.slot, claim.token, FETCHING):
                    ledger.table.empty(claim.slot)
                ledger.table.pause(PAUSE_S)
            return False
        return True

    def _placed(self, claim: Claim, part: Path) -> bool:
        """Give a file that was written its name, if the claim still stands."""
        with self._shared.exclusive() as ledger:
            if not ledger.table.holds(claim.slot, claim.token, FETCHING):
                return False
            part.replace(self._folder.chunk(claim.key))
            ledger.table.state[claim.slot] = PRESENT
            self._stats.published += 1
        return True

    def _trouble(self, error: Exception) -> None:
        """Leave the cache alone for a while: its folder or lock failed, which must not stop the training."""
        self.count(troubles=1)
        self._stats.last_trouble = str(error)
        self._idle_until = time.monotonic() + PAUSE_S


def _write(part: Path, raw: memoryview | bytes) -> None:
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(handle, view) :]
    finally:
        os.close(handle)
