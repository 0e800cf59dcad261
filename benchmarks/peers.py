"""Other projects' writers and loaders, imported and fed as well as they can be."""

import functools
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streaming import MDSWriter

MDS_SHARD_BYTES: Final = 1 << 26
"""MosaicML's own default."""

_FEED_ROWS: Final = 1_000
_SCALARS: Final = {
    pa.bool_(): "uint8",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "str",
    pa.binary(): "bytes",
}


@functools.cache
def mosaic_writer() -> "type[MDSWriter]":
    """Return MosaicML Streaming's `MDSWriter`; after this call `streaming` can be imported.

    `import streaming` imports torchvision for the base class of its vision datasets alone. PyPI's torchvision does not
    load beside a CPU build of torch, so where it is missing two names stand in for it.
    """
    if importlib.util.find_spec("torchvision") is None:
        # transformers asks whether torchvision is there: it must see the truth, hence before the stand-in.
        importlib.import_module("transformers.feature_extraction_utils")
        importlib.import_module("transformers.tokenization_utils_base")
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = ModuleType(f"torchvision{name}")
        vars(sys.modules["torchvision.datasets"])["VisionDataset"] = object
        vars(sys.modules["torchvision.transforms.functional"])["to_tensor"] = None
    from streaming import MDSWriter

    return MDSWriter


def write_mds(files: Sequence[Path], order: NDArray[np.int64], out: Path) -> None:
    """Write the rows of Parquet files as MDS shards in the given order, with MosaicML's quickest settings.

    No compression, no hashes, shards of 64 MB. The table is held in memory, rows are taken and turned into Python
    values a thousand at a time, and nulls become zeros, as MDS has none: all of it quicker than a row at a time.

    Args:
        files: the Parquet files, in sample-id order.
        order: (n,) sample ids.
        out: a folder that does not exist yet.
    """
    make = mosaic_writer()
    # In one piece, as `take` from a table of many pieces costs several times the whole write.
    table = pa.concat_tables(pq.read_table(file) for file in files).combine_chunks()
    columns = {field.name: _mds_encoding(field.type) for field in table.schema}
    names = table.schema.names
    with make(columns=columns, out=str(out), compression=None, hashes=None, size_limit=MDS_SHARD_BYTES) as writer:
        for start in range(0, len(order), _FEED_ROWS):
            rows = table.take(order[start : start + _FEED_ROWS])
            for values in zip(*map(_python_values, rows.columns), strict=True):
                writer.write(dict(zip(names, values, strict=True)))


def _mds_encoding(kind: pa.DataType) -> str:
    return "int64" if pa.types.is_timestamp(kind) else _SCALARS[kind]


def _python_values(column: "pa.ChunkedArray[Any]") -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if column.null_count:
        column = column.fill_null("" if pa.types.is_string(column.type) else 0)
    return column.to_pylist()
