"""Rows of bytes between numpy and Arrow, without a Python object per row."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def fixed_binary(raw: NDArray[np.uint8]) -> "pa.Array[Any]":
    """Return each row of bytes, shape (C, width), as a fixed-size binary value."""
    return pa.Array.from_buffers(pa.binary(raw.shape[1]), len(raw), [None, pa.py_buffer(raw.tobytes())])


def binary_rows(column: "pa.Array[Any] | pa.ChunkedArray[Any]") -> NDArray[np.uint8]:
    """Return a fixed-size binary column without nulls as bytes of shape (C, width), a view where it is contiguous."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.byte_width
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty((0, width), np.uint8)
    flat = np.frombuffer(memoryview(buffer), np.uint8)
    return flat[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)


def hex_strings(raw: NDArray[np.uint8]) -> "pa.Array[Any]":
    """Return each row of bytes, shape (C, width), as hexadecimal text."""
    count, width = raw.shape
    text = pa.py_buffer(raw.tobytes().hex().encode())
    offsets = pa.py_buffer(np.arange(0, (count + 1) * 2 * width, 2 * width, dtype=np.int64).tobytes())
    return pa.Array.from_buffers(pa.large_string(), count, [None, offsets, text]).cast(pa.string())
