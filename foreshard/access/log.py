"""Writes one rank's access log of one epoch: cheap appends while training, two create-only objects at the end."""

import hashlib
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.access.schema import (
    EVENT_SCHEMA,
    SAMPLE_SCHEMA,
    LogHeader,
    LogKind,
    LogObject,
    phase_of,
    step_ranges,
)
from foreshard.errors import LogError
from foreshard.keys import DatasetKeys, check_name, parse_generation_key
from foreshard.storage import ObjectStore

_TOUCH_COLUMNS: Final = ("chunk", "hit", "bytes", "wait_us", "fetch_us")
_INT32: Final = np.iinfo(np.int32)

Touch = tuple[int, tuple[NDArray[Any], ...]]


class AccessLogWriter:
    """Collects what one rank reads in one epoch.

    `touches` and `samples` copy their small arrays into lists and return: the training loop pays microseconds, and
    nothing reaches the store before `close`. One append is one list operation, so they may be called from several
    threads. A crash before `close` leaves no object; a crash inside it leaves whole objects that no marker lists.

    Args:
        store: where the log goes.
        keys: object names of the dataset.
        run: name of the training job.
        epoch: the epoch being trained, from 1.
        rank: this process's rank.
        generation: the layout generation it reads.
        write_id: names this attempt; a resumed attempt takes another one, so that the two never collide.
        steps: optimizer steps of the epoch.
        phases: equal parts the epoch is divided into.

    Raises:
        LogError: an epoch, rank, step or phase count that cannot be.
        ConfigError: a run, generation or write id that may not stand in a key.
    """

    def __init__(  # noqa: PLR0913 -- an epoch's identity has that many parts
        self,
        store: ObjectStore,
        keys: DatasetKeys,
        *,
        run: str,
        epoch: int,
        rank: int,
        generation: str,
        write_id: str,
        steps: int,
        phases: int,
    ) -> None:
        check_name(run, "run")
        check_name(write_id, "write id")
        parse_generation_key(generation)
        if epoch < 1 or not 0 <= rank <= np.iinfo(np.int16).max or epoch > _INT32.max:
            raise LogError(f"epoch {epoch}, rank {rank} cannot be logged: epochs count from 1, ranks from 0 to 32767")
        if not 1 <= phases <= steps or phases > np.iinfo(np.int16).max or steps > _INT32.max:
            raise LogError(f"{phases} phases of {steps} steps cannot be logged: give at least one step per phase")
        self._store = store
        self._keys = keys
        self._header = LogHeader("events", run, epoch, rank, generation, write_id, steps, phases, ())
        self._touches: list[Touch] = []
        self._draws: list[tuple[int, NDArray[np.int64]]] = []
        self._objects: list[LogObject] | None = None

    def touches(
        self,
        step: int,
        chunks: NDArray[np.int32],
        hit: NDArray[np.bool_],
        nbytes: NDArray[np.int32] | NDArray[np.int64],
        wait_us: NDArray[np.int32],
        fetch_us: NDArray[np.int32],
    ) -> None:
        """Record the chunks that one step's batch touched, each once; empty arrays record a step without rows.

        Args:
            step: 0..steps-1.
            chunks: shape (k,), distinct chunk ids.
            hit: shape (k,), whether the chunk was in memory.
            nbytes: shape (k,), size of the chunk.
            wait_us: shape (k,), microseconds that the training loop waited for it.
            fetch_us: shape (k,), microseconds that its fetch took; 0 for a hit.

        Raises:
            LogError: a step outside the epoch, arrays of different lengths, or a writer that is closed.
        """
        self._check_step(step)
        columns = (np.array(chunks), np.array(hit), np.array(nbytes), np.array(wait_us), np.array(fetch_us))
        if any(column.shape != columns[0].shape for column in columns) or columns[0].ndim != 1:
            shapes = ", ".join(f"{n} {c.shape}" for n, c in zip(_TOUCH_COLUMNS, columns, strict=True))
            raise LogError(f"touches of step {step} have the shapes {shapes}; give arrays of one length")
        self._touches.append((step, columns))

    def samples(self, step: int, sample_ids: NDArray[np.int64]) -> None:
        """Record the samples this rank drew at one step; a sample drawn twice is given twice.

        Args:
            step: 0..steps-1.
            sample_ids: shape (k,).

        Raises:
            LogError: a step outside the epoch, or a writer that is closed.
        """
        self._check_step(step)
        self._draws.append((step, np.array(sample_ids, np.int64).reshape(-1)))

    def move(self, generation: str, chunk_of: NDArray[np.int32], nbytes: NDArray[np.int64]) -> None:
        """Go on in another layout, in the middle of the epoch.

        A log speaks of the chunks of one layout. What was logged before becomes the touches that the same samples would
        have been in the new one: misses that took no time, as nobody measured them.

        Args:
            generation: the layout generation.
            chunk_of: shape (n,), its chunk of every sample.
            nbytes: shape (C,), size of its chunks.

        Raises:
            LogError: a writer that is closed.
            ConfigError: a generation that may not stand in a key.
        """
        parse_generation_key(generation)
        self._check_step(0)
        moved: list[Touch] = []
        for step, ids in self._draws:
            chunks = np.unique(chunk_of[ids])
            none = np.zeros(len(chunks), np.int32)
            moved.append((step, (chunks, none.astype(np.bool_), nbytes[chunks], none, none)))
        self._touches, self._header = moved, replace(self._header, generation=generation)

    def close(self) -> list[LogObject]:
        """Write the events and the samples object, once; call it again after a failure, or to get the list again.

        The bytes follow from what was logged alone, so a retried put meets its own object and counts as done.

        Returns:
            The two objects, for the epoch marker.

        Raises:
            LogError: a negative or too large value, or a chunk logged twice at one step.
            ObjectExistsError: another attempt used the same write id.
        """
        if self._objects is None:
            events = self._event_table()
            samples = self._sample_table()
            self._objects = [self._write("events", events), self._write("samples", samples)]
            self._touches, self._draws = [], []
        return list(self._objects)

    # -- inside ---------------------------------------------------------------------------------------
    def _check_step(self, step: int) -> None:
        if self._objects is not None:
            raise LogError(
                f"the log of epoch {self._header.epoch}, rank {self._header.rank} is closed; step {step} comes too late"
            )
        if not 0 <= step < self._header.steps:
            raise LogError(
                f"step {step} is outside epoch {self._header.epoch}, which has steps 0..{self._header.steps - 1}"
            )

    def _event_table(self) -> pa.Table:
        lengths = [len(columns[0]) for _, columns in self._touches]
        steps = np.repeat(np.array([step for step, _ in self._touches], np.int64), lengths)
        data = {
            name: np.concatenate([columns[i] for _, columns in self._touches])
            if self._touches
            else np.empty(0, np.int32)
            for i, name in enumerate(_TOUCH_COLUMNS)
        }
        for name in ("chunk", "bytes", "wait_us", "fetch_us"):
            data[name] = _as_int32(name, data[name], steps)
        # Threads may log out of order: sorting makes the bytes a function of what was logged.
        order = np.lexsort((data["chunk"], steps))
        steps, data = steps[order], {name: values[order] for name, values in data.items()}
        twice = np.flatnonzero((np.diff(steps) == 0) & (np.diff(data["chunk"]) == 0))
        if len(twice):
            raise LogError(
                f"chunk {data['chunk'][twice[0]]} is logged twice at step {steps[twice[0]]} of epoch "
                f"{self._header.epoch}; log each chunk a batch touches once"
            )
        rows = len(steps)
        columns = {
            "run": _repeat_name(self._header.run, rows),
            "generation": _repeat_name(self._header.generation, rows),
            "epoch": np.full(rows, self._header.epoch, np.int32),
            "rank": np.full(rows, self._header.rank, np.int16),
            "step": steps.astype(np.int32),
            "phase": phase_of(steps, self._header.steps, self._header.phases),
            **{name: values.astype(bool) if name == "hit" else values for name, values in data.items()},
        }
        return self._table("events", EVENT_SCHEMA, columns, [step for step, _ in self._touches])

    def _sample_table(self) -> pa.Table:
        called = np.array([step for step, _ in self._draws], np.int64)
        phase_called = phase_of(called, self._header.steps, self._header.phases)
        parts: list[tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int32]]] = []
        for phase in np.unique(phase_called):
            drawn = np.concatenate([self._draws[i][1] for i in np.flatnonzero(phase_called == phase)])
            ids, counts = np.unique(drawn, return_counts=True)
            if len(ids) and ids[0] < 0:
                raise LogError(
                    f"sample id {ids[0]} of epoch {self._header.epoch}, rank {self._header.rank} is negative"
                )
            parts.append((np.full(len(ids), phase, np.int16), ids, counts.astype(np.int32)))
        phases = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int16)
        columns = {
            "epoch": np.full(len(phases), self._header.epoch, np.int32),
            "phase": phases,
            "sample_id": np.concatenate([part[1] for part in parts]) if parts else np.empty(0, np.int64),
            "count": np.concatenate([part[2] for part in parts]) if parts else np.empty(0, np.int32),
        }
        return self._table("samples", SAMPLE_SCHEMA, columns, called.tolist())

    def _table(self, kind: LogKind, schema: pa.Schema, columns: dict[str, Any], called: list[int]) -> pa.Table:
        header = replace(self._header, kind=kind, recorded=step_ranges(np.array(called, np.int64)))
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        return pa.table(arrays, schema=schema.with_metadata(header.to_metadata()))

    def _write(self, kind: LogKind, table: pa.Table) -> LogObject:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        raw = sink.getvalue().to_pybytes()
        key = self._keys.log(self._header.run, self._header.epoch, self._header.rank, self._header.write_id, kind)
        self._store.create(key, raw)
        return LogObject(key, kind, self._header.rank, len(raw), hashlib.sha256(raw).hexdigest(), table.num_rows)


def _as_int32(name: str, values: NDArray[Any], steps: NDArray[np.int64]) -> NDArray[np.int32]:
    """Refuse what would wrap around, rather than log a wrong number."""
    bad = np.flatnonzero((values < 0) | (values > _INT32.max))
    if len(bad):
        raise LogError(
            f"{name} {values[bad[0]]} at step {steps[bad[0]]} cannot be logged: give 0 to {_INT32.max} (int32)"
        )
    return values.astype(np.int32)


def _repeat_name(name: str, rows: int) -> "pa.Array[Any]":
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([name]))
