"""What a loader does about a chunk whose bytes in the store are not those that were written."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.prefetch.arena import Payload
from foreshard.prefetch.gather import Gatherer
from foreshard.prefetch.landing import Direct, Fetch
from foreshard.seeding import derive_seed, row_keys
from foreshard.shards.codec import SAMPLE_ID, decode_chunk
from foreshard.shards.manifest import Manifest

OnCorrupt = Literal["raise", "refetch", "substitute"]
"""`raise`: the first bytes of a chunk that do not verify raise, whether read ahead or on demand. `refetch`: they are
read again, several times where they came over a network, before that raises. `substitute`: after that, rows of another
chunk take the place of its rows."""

_TRIED: Final = 8
_log: Final = logging.getLogger(__name__)


class CorruptChunkError(CorruptDataError):
    """A chunk's bytes do not verify.

    Attributes:
        chunk: which.
    """

    def __init__(self, chunk: int, message: str) -> None:
        super().__init__(message)
        self.chunk = chunk


@dataclass(frozen=True)
class Substitution:
    """A corrupt chunk and what is read in its place.

    Attributes:
        chunk: the corrupt chunk.
        donor: the chunk that its rows are taken from.
        sample_ids: int64 (rows,), for each row of the corrupt chunk the sample that is read instead.
    """

    chunk: int
    donor: int
    sample_ids: NDArray[np.int64]


class CorruptionGuard:
    """Carries out a policy around a function that fetches chunks.

    A substitute is a function of the corrupt chunk's seed (which holds the dataset's root seed and the ids of the
    chunk's samples) and of the other chunks of its split: the same on every rank and worker and in every run of a
    layout, and in another layout that keeps the corrupt chunk and the donor, unless that has a chunk that goes before
    the donor. Each other chunk has a key of its own seed and the corrupt one's; the donor is the one with the least key
    that verifies and fits. Row r is replaced by the donor's row r modulo m: its first m rows are what fits the corrupt
    chunk's bytes, which are reserved for it in memory. So a batch has the same size, and all other samples their
    places; its `sample_id` column tells what was read, its `sample_ids` what the order asked for.

    Once substituted, a chunk is not read again as long as its layout is held. While a substitute is made, a donor and
    its copy are in memory beside the bytes reserved.

    Args:
        policy: what to do.
        manifest: the layout.
        gatherer: finds columns in chunks.
        fetch: reads and verifies chunks; raises `CorruptChunkError`.

    Attributes:
        substituted: by chunk, what was substituted so far; empty with another policy. Grows while fetches run.
    """

    def __init__(self, policy: OnCorrupt, manifest: Manifest, gatherer: Gatherer, fetch: Fetch) -> None:
        self._policy, self._manifest, self._gatherer, self._inner = policy, manifest, gatherer, fetch
        self._failed: dict[int, CorruptChunkError] = {}
        self.substituted: dict[int, Substitution] = {}

    def fetch(self, chunks: Sequence[int]) -> Sequence[Payload]:
        """Fetch chunks that follow each other in a shard.

        Raises:
            CorruptDataError: a chunk does not verify, and the policy finds no remedy.
            StorageError: the store failed.
        """
        if self._policy == "refetch":
            return self._inner(chunks)
        if self._policy == "raise":
            return self._fetch_once(chunks)
        if not any(chunk in self.substituted for chunk in chunks):
            try:
                return self._inner(chunks)
            except CorruptChunkError as error:
                if len(chunks) == 1:
                    return [self._substitute(chunks[0], error)]
        return [self._fetch_one(chunk) for chunk in chunks]

    def guard(self, direct: Direct) -> Direct:
        """Return what reads chunks straight into memory under the same policy: what verifies at once, that is.

        Args:
            direct: reads and verifies chunks; raises `CorruptChunkError`.
        """

        def guarded(chunks: Sequence[int], rooms: Sequence[memoryview]) -> Sequence[Payload] | None:
            if any(chunk in self.substituted or chunk in self._failed for chunk in chunks):
                return None
            try:
                return direct(chunks, rooms)
            except CorruptChunkError as error:
                if self._policy != "raise":
                    return None
                self._failed[error.chunk] = error
                raise

        return guarded

    def _fetch_once(self, chunks: Sequence[int]) -> Sequence[Payload]:
        """Fetch; what did not verify when it was read ahead raises when it is wanted, without being read again."""
        for chunk in chunks:
            error = self._failed.pop(chunk, None)
            if error is not None:
                raise error
        try:
            return self._inner(chunks)
        except CorruptChunkError as error:
            self._failed[error.chunk] = error
            raise

    def _fetch_one(self, chunk: int) -> Payload:
        if chunk in self.substituted:
            return self._substitute(chunk, None)
        try:
            return self._inner([chunk])[0]
        except CorruptChunkError as error:
            return self._substitute(chunk, error)

    def _substitute(self, chunk: int, reason: CorruptChunkError | None) -> Payload:
        tried: list[int] = []
        for donor in self._donors(chunk):
            tried.append(donor)
            try:
                rows = decode_chunk(self._inner([donor])[0].raw, self._manifest.physical)
            except CorruptDataError:
                continue
            count = self._fitting(rows, chunk)
            if count:
                self._note(chunk, donor, rows.slice(0, count), reason)
                raw = memoryview(rows.slice(0, count).serialize())
                payload = self._gatherer.locate(raw, decode_chunk(raw, self._manifest.physical))
                return Payload(payload.raw, payload.places, count)
        raise CorruptChunkError(
            chunk,
            f"{reason or f'chunk {chunk} is corrupt'}; nothing can be read in its place: of the other chunks of its "
            f"split, {tried} do not verify either or have no row that fits its {self._manifest.nbytes[chunk]} bytes",
        ) from reason

    def _donors(self, chunk: int) -> Iterator[int]:
        """Yield the chunks to try: the last one's donor, and those of the least keys, best first."""
        if chunk in self.substituted:
            yield self.substituted[chunk].donor
        manifest = self._manifest
        others = np.flatnonzero(manifest.splits == manifest.splits[chunk])
        others = others[others != chunk]
        seed = derive_seed(purpose="substitute", chunk=manifest.seeds[chunk].tobytes())
        names = np.ascontiguousarray(manifest.seeds[others, :8]).view(np.int64).reshape(-1)
        keys = row_keys(seed, names)
        if len(keys) > _TRIED:
            least = np.argpartition(keys, _TRIED)[:_TRIED]
            others, keys = others[least], keys[least]
        yield from others[np.argsort(keys, kind="stable")].tolist()

    def _fitting(self, rows: pa.RecordBatch, chunk: int) -> int:
        """Return how many of the first rows fit a chunk's bytes, all that it has at most."""
        arrow: Any = pa.ipc  # its stubs lack get_record_batch_size
        room = int(self._manifest.nbytes[chunk])
        low, high = 0, min(rows.num_rows, int(self._manifest.rows[chunk]))
        while low < high:
            middle = (low + high + 1) // 2
            if arrow.get_record_batch_size(rows.slice(0, middle)) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _note(self, chunk: int, donor: int, rows: pa.RecordBatch, reason: CorruptChunkError | None) -> None:
        """Record a substitution, and warn the first time."""
        known = self.substituted.get(chunk)
        if known is not None and known.donor == donor:
            return
        ids: NDArray[np.int64] = rows.column(SAMPLE_ID).to_numpy()
        self.substituted[chunk] = Substitution(chunk, donor, np.resize(ids, int(self._manifest.rows[chunk])))
        _log.warning(
            "%s; rows of chunk %d, samples %s, are read in place of its %d rows",
            reason or f"chunk {chunk} is corrupt, and so is now what was read in its place",
            donor,
            ids[:8].tolist(),
            self._manifest.rows[chunk],
        )
