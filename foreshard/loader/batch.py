"""What the training loop receives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.batch_arrays import to_array


class MissingColumnError(ConfigError, KeyError):
    """A batch has no such column; the message names those it has."""

    __str__ = Exception.__str__  # a KeyError shows its message as a literal


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    It reads like a dict of NumPy arrays, `batch["distance"]`; `rows` is the same as Arrow, without conversion. Arrays
    may be written: the memory is this batch's alone. A column's dtype follows from its type and, for integers and
    booleans, from whether the batch holds a null of it:

    | column | becomes |
    |---|---|
    | integers, floats | the same type on the memory of `rows`; a float that is null is NaN, in a copy |
    | integers with a null | float64, in which null is NaN |
    | booleans | bool, a copy; Python objects, None where null, with a null |
    | timestamps, durations, dates | datetime64 or timedelta64 in the column's unit, without its zone; null is NaT |
    | lists of a fixed size | an array of shape (b, size) of what their values become |
    | dictionaries | what their values become |
    | strings, binaries and all else | Python objects, None where null |

    A list of a fixed size that is null, and an integer that float64 does not hold beside one that is null, raise
    `ConfigError`: take those from `rows`.

    Attributes:
        epoch: the epoch, from 1.
        step: the step, from 0.
        sample_ids: int64 (b,), in the order's sequence.
        positions: int32 (b,), their places in the global batch.
        rows: the columns, with `sample_id` last, as an Arrow record batch.
    """

    epoch: int
    step: int
    sample_ids: NDArray[np.int64]
    positions: NDArray[np.int32]
    rows: pa.RecordBatch

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._arrays[column] if column in self._arrays else self._convert(column)

    def __contains__(self, column: object) -> bool:
        return column in self.rows.schema.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows.schema.names)

    def keys(self) -> list[str]:
        """Return the column names."""
        return list(self.rows.schema.names)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def _convert(self, column: str) -> NDArray[Any]:
        try:
            values = self.rows.column(column)
        except (KeyError, TypeError) as error:
            raise MissingColumnError(
                f"there is no column {column!r} in the batch; it has {', '.join(self)}: name one of these, or add it "
                "to LoaderOptions(columns=...)"
            ) from error
        array = self._arrays[column] = to_array(column, values)
        return array
