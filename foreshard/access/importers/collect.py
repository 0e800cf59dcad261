"""Gathers requests batch by batch and makes a `Trace` of them; what grows with the log waits in temporary files.

A log of 100 million requests needs 4 bytes of memory each for the trace itself, and for a moment 20 more where its
records must be put in order; the objects' names and sizes are kept besides.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.report import Quarantine, summary
from foreshard.access.importers.values import Column, pc
from foreshard.access.trace import Trace, equal_starts
from foreshard.errors import LogError

DEFAULT_WINDOWS: Final = 24
"""Windows of a log that knows no epochs."""


_ROWS: Final = 1 << 20
_BYTES: Final = 1 << 28


class Spool:
    """A column that grows in a temporary file, so that it takes no memory until it is read."""

    def __init__(self, stack: ExitStack, dtype: type[np.generic]) -> None:
        self._file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 -- the stack closes it
        self._dtype = np.dtype(dtype)
        self.length = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end.

        Raises:
            LogError: there is no room for them.
        """
        try:
            self._file.write(np.ascontiguousarray(values, self._dtype).data)
            self._file.flush()
        except OSError as error:  # whoever reads a log takes other errors of the system for damage of the log
            self._file.raw.close()  # else closing it would try to write again
            what = f"a temporary file cannot be written ({error.strerror})"
            raise LogError(f"{what}; free space for temporary files, or set TMPDIR to a folder that has it") from error
        self.length += len(values)

    def parts(self, size: int) -> Iterator[NDArray[Any]]:
        """Yield all values, `size` at a time."""
        self._file.seek(0)
        for start in range(0, self.length, size):
            yield self._read(min(size, self.length - start))

    def read(self) -> NDArray[Any]:
        """Return all values, shape (length,)."""
        self._file.seek(0)
        return self._read(self.length)

    def _read(self, length: int) -> NDArray[Any]:
        values = np.empty(length, self._dtype)
        if length and self._file.readinto(values.data) != values.nbytes:  # type: ignore[attr-defined]
            raise LogError(f"a temporary file was cut short at {self.length} values; free space for temporary files")
        return values


class Names:
    """Gives every distinct name a number, in order of first appearance."""

    def __init__(self) -> None:
        self._known: Column = None

    @property
    def count(self) -> int:
        """C, how many there are."""
        return 0 if self._known is None else len(self._known)

    def encode(self, values: Column) -> NDArray[np.int32]:
        """Return the number of every value, shape (k,), and take new names in.

        Args:
            values: integers or texts without nulls, of one type in all calls.

        Raises:
            LogError: more than 2^31 - 1 distinct names.
        """
        if pa.types.is_string(values.type):
            values = values.cast(pa.large_string())  # names of millions of objects pass 2 GB
        encoded = values.dictionary_encode()
        distinct = encoded.dictionary
        known = distinct.slice(0, 0) if self._known is None else self._known
        at = pc.index_in(distinct, value_set=known)
        new = at.is_null()
        number = np.array(at.fill_null(0).to_numpy(zero_copy_only=False), np.int64)
        fresh = np.asarray(new.to_numpy(zero_copy_only=False), bool)
        number[fresh] = len(known) + np.arange(int(fresh.sum()))
        self._known = pa.concat_arrays([known, distinct.filter(new)])
        if len(self._known) > np.iinfo(np.int32).max:
            raise LogError("the log has more than 2147483647 distinct objects; import a part of it")
        return number.astype(np.int32)[np.asarray(encoded.indices.to_numpy(zero_copy_only=False))]

    def names(self) -> NDArray[np.object_]:
        """Return all names, object (C,), by number."""
        if self._known is None:
            return np.empty(0, np.object_)
        return np.array(self._known.to_numpy(zero_copy_only=False).astype(np.object_), np.object_)


class Collector:
    """Takes batches of valid requests and makes the trace.

    Args:
        stack: closes the temporary files.
        quarantine: is told of requests out of order.
    """

    def __init__(self, stack: ExitStack, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._names = Names()
        self._objects = Spool(stack, np.int32)
        self._times = Spool(stack, np.int64)
        self._epochs = Spool(stack, np.int32)
        self._sizes = np.zeros(0, np.int64)
        self._pending: list[tuple[Column, NDArray[np.int64] | None]] = []
        self._waiting = 0
        self._bytes = 0
        self._last: int | None = None
        self._disorder = 0

    def add(
        self,
        objects: Column,
        times: NDArray[np.int64] | None = None,
        epochs: NDArray[np.int32] | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Add k requests.

        Args:
            objects: names, without nulls, of one type in all calls.
            times: shape (k,), in any one unit; given in all calls or in none.
            epochs: shape (k,); given in all calls or in none.
            sizes: shape (k,), bytes of the object; an object's largest size counts.

        Returns:
            The requests of this batch whose time is before the request in front of them, ascending.
        """
        if not len(objects):
            return np.empty(0, np.int64)
        self._pending.append((objects, sizes))
        self._waiting += len(objects)
        self._bytes += objects.nbytes
        if self._waiting >= max(_ROWS, self._names.count // 2) or self._bytes >= _BYTES:
            self._number()
        if epochs is not None:
            self._epochs.append(epochs)
        if times is None:
            return np.empty(0, np.int64)
        self._times.append(times)
        before = np.concatenate([[times[0] if self._last is None else self._last], times[:-1]])
        self._last = int(times[-1])
        late = np.flatnonzero(times < before)
        self._disorder += len(late)
        return late

    def trace(self, windows: int | None, phases: int) -> Trace:
        """Return the trace: in order of time where times are known, else of arrival; windows by epoch or by requests.

        Args:
            windows: windows of equal numbers of requests, or None for the log's epochs, if it has them, else for
                `DEFAULT_WINDOWS` (as many as there are requests, if those are fewer).
            phases: windows of equal numbers of requests per epoch, where windows are epochs.

        Raises:
            LogError: there is no request, fewer than windows, or an epoch has fewer than phases.
        """
        if self._waiting:
            self._number()
        objects = self._objects.read()
        if not len(objects):
            raise LogError(
                f"the log holds no valid request ({summary(self._quarantine.findings())}); check its format and columns"
            )
        for what, spool in (("times", self._times), ("epochs", self._epochs)):
            if spool.length not in (0, len(objects)):
                raise LogError(f"only some of the log's files have {what}; import those that have them by themselves")
        order = self._order(by_epoch=windows is None)
        if order is not None:
            objects = objects[order]
        if windows is not None or not self._epochs.length:
            starts = equal_starts(len(objects), min(DEFAULT_WINDOWS, len(objects)) if windows is None else windows)
            phases = 1
        else:
            starts = self._epoch_starts(order, phases)
        names = self._names.names()
        self._grow(len(names))
        return Trace(objects, names, np.maximum(self._sizes[: len(names)], 1), starts, phases)

    def _order(self, *, by_epoch: bool) -> NDArray[np.int64] | None:
        """Return the order of time, within epochs if these are the windows; None if the log is in that order."""
        keys = [self._times.read()] if self._disorder else []
        if by_epoch and self._epochs.length:
            epochs = self._epochs.read()
            if keys or (np.diff(epochs) < 0).any():
                keys.append(epochs)
        if not keys:
            return None
        return np.lexsort(keys) if len(keys) > 1 else np.argsort(keys[0], kind="stable")

    def _epoch_starts(self, order: NDArray[np.int64] | None, phases: int) -> NDArray[np.int64]:
        epochs = self._epochs.read()
        epochs = epochs if order is None else epochs[order]
        first = np.concatenate([[0], np.flatnonzero(np.diff(epochs)) + 1, [len(epochs)]])
        seen, lengths = epochs[first[:-1]], np.diff(first)
        if (lengths < phases).any():
            short = int(np.argmin(lengths))
            raise LogError(
                f"epoch {seen[short]} has {lengths[short]} requests, fewer than {phases} phases; ask for fewer"
            )
        gaps = np.flatnonzero(np.diff(seen) > 1)
        for gap in gaps[:1]:
            text = f"{seen[gap] + 1}..{seen[gap + 1] - 1}"
            self._quarantine.note("epoch without a request", "the log", f"epochs {text}", count=len(gaps))
        parts = first[:-1, None] + np.arange(phases) * lengths[:, None] // phases
        return np.append(parts.reshape(-1), len(epochs)).astype(np.int64)

    def _number(self) -> None:
        """Number the objects that wait; many at once, as every call costs as much as there are names."""
        numbers = self._names.encode(pa.concat_arrays([objects for objects, _ in self._pending]))
        self._objects.append(numbers)
        self._grow(self._names.count)
        start = 0
        for objects, sizes in self._pending:
            if sizes is not None:
                np.maximum.at(self._sizes, numbers[start : start + len(objects)], sizes)
            start += len(objects)
        self._pending, self._waiting, self._bytes = [], 0, 0

    def _grow(self, length: int) -> None:
        if length > len(self._sizes):
            self._sizes = np.concatenate(
                [self._sizes, np.zeros(max(length, len(self._sizes) * 3 // 2) - len(self._sizes), np.int64)]
            )
