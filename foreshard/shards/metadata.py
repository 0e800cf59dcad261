"""Consistency metadata: per chunk the seed, the PRNG state and how its rows were chosen and ordered.

With it, the snapshot and the algorithm version, a chunk can be made again byte for byte on any machine.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.seeding import ALGORITHM_VERSION, Origin, PrngState, derive_seed, permutation
from foreshard.shards.columns import fixed_binary, hex_strings

CONSISTENCY_SCHEMA: Final = pa.schema(
    [
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("content_id", pa.binary(16), nullable=False),
        pa.field("seed", pa.string(), nullable=False),
        pa.field("prng_state", pa.string(), nullable=False),
        pa.field("algorithm_version", pa.int32(), nullable=False),
        pa.field("origin", pa.int16(), nullable=False),
        pa.field("strategy", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("node", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("order_sha256", pa.binary(32), nullable=False),
    ]
)
"""Columns of `consistency.arrow`.

`seed` and the state *after* the shuffle are hexadecimal. `origin` is a position in the list of `consistency_origins`:
what the seed follows from beside the chunk's samples, which a chunk keeps as long as it is unchanged; `strategy` is the
origin's. `order_sha256` is of the chunk's sample ids (int64, little endian) in stored order.
"""

_ORIGINS_KEY: Final = "origins"

_POSITION: Final = 0xFEEDFACE


def generate_seed(content_id: bytes, *, fingerprint: str, strategy: str, root_seed: int) -> bytes:
    """Return a chunk's 16-byte seed.

    Args:
        content_id: BLAKE2b-128 of the chunk's sorted sample ids; never its number, node or shard.
        fingerprint: the snapshot's fingerprint.
        strategy: name of the partitioning strategy.
        root_seed: the dataset's root seed.
    """
    return derive_seed(**Origin(fingerprint, strategy, root_seed).seed_fields(), content_id=content_id)


def shuffle_rows(sample_ids: NDArray[np.int64], seed: bytes) -> NDArray[np.int64]:
    """Return a chunk's sample ids in stored order: the seed's permutation of the ascending ids, shape (rows,)."""
    order, _ = permutation(PrngState(seed), len(sample_ids))
    return sample_ids[order]


def order_digest(stored: NDArray[np.int64]) -> bytes:
    """Return the SHA-256 of a chunk's sample ids (int64, little endian) in stored order."""
    return hashlib.sha256(stored.astype("<i8").tobytes()).digest()


def prng_states(seeds: NDArray[np.uint8], rows: NDArray[np.int32]) -> "pa.Array[Any]":
    """Return each chunk's PRNG state after its shuffle, which draws one word a row, as `PrngState.to_json` text.

    Args:
        seeds: shape (C, 16).
        rows: shape (C,).
    """
    import pyarrow.compute as pc  # some 10 MiB, which a training job can do without

    template = json.dumps(PrngState(bytes(16), _POSITION).to_json(), sort_keys=True)
    before, rest = template.split(f"{_POSITION:x}")
    between, after = rest.split("0" * 32)
    distinct, code = np.unique(rows, return_inverse=True)
    positions = pa.array([f"{n:x}" for n in distinct.tolist()], pa.string()).take(code)
    join: Any = pc.binary_join_element_wise  # its stub knows no scalars
    return join(before, positions, between, hex_strings(seeds), after, "")


def consistency_table(  # noqa: PLR0913 - a column each
    *,
    content_ids: NDArray[np.uint8],
    seeds: NDArray[np.uint8],
    orders: NDArray[np.uint8],
    groups: NDArray[np.int32],
    nodes: NDArray[np.int32],
    rows: NDArray[np.int32],
    origin: NDArray[np.int16],
    origins: Sequence[Origin],
    about: dict[str, str],
) -> pa.RecordBatch:
    """Return the consistency metadata of a layout, one row per chunk.

    Args:
        content_ids: shape (C, 16).
        seeds: shape (C, 16).
        orders: shape (C, 32), SHA-256 of the ids in stored order.
        groups: shape (C,).
        nodes: shape (C,).
        rows: shape (C,).
        origin: shape (C,), the position of each chunk's origin in `origins`.
        origins: what the seeds follow from; becomes part of the schema's metadata.
        about: what holds for all chunks: `strategy`, `plan_digest`, `fingerprint` and library versions; becomes the
            schema's metadata.
    """
    count = len(rows)
    names = list(dict.fromkeys(each.strategy for each in origins))
    name_of = np.array([names.index(each.strategy) for each in origins], np.int32)
    strategy = pa.DictionaryArray.from_arrays(name_of[origin], pa.array(names, pa.string()))
    columns = [
        pa.array(np.arange(count, dtype=np.int32)),
        fixed_binary(content_ids),
        hex_strings(seeds),
        prng_states(seeds, rows),
        pa.array(np.full(count, ALGORITHM_VERSION, np.int32)),
        pa.array(origin),
        strategy,
        pa.array(groups),
        pa.array(nodes),
        pa.array(rows),
        fixed_binary(orders),
    ]
    texts = {**about, _ORIGINS_KEY: json.dumps([each.to_json() for each in origins], sort_keys=True)}
    metadata = {key.encode(): value.encode() for key, value in sorted(texts.items())}
    return pa.RecordBatch.from_arrays(columns, schema=CONSISTENCY_SCHEMA.with_metadata(metadata))


def consistency_origins(table: pa.RecordBatch) -> tuple[Origin, ...]:
    """Return the origins that a consistency table's column `origin` points to.

    Raises:
        CorruptDataError: the table's metadata list none.
    """
    raw = (table.schema.metadata or {}).get(_ORIGINS_KEY.encode())
    try:
        return tuple(Origin.from_json(each) for each in json.loads(raw or b"null"))
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        raise CorruptDataError(
            f"consistency metadata name their origins as {raw!r}, which is no list of origins; rebuild the layout"
        ) from error
