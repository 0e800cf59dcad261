"""Random schemas and tables, nested and with every type that sources have, for property tests."""

import decimal

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

NO_SURROGATES = st.characters(exclude_categories=["Cs"])

LEAVES = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint16(), st.integers(0, 2**16 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(NO_SURROGATES, max_size=4)),
    (pa.large_string(), st.text(NO_SURROGATES, max_size=4)),
    (pa.binary(), st.binary(max_size=4)),
    (pa.large_binary(), st.binary(max_size=4)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal128(9, 2), st.integers(-(10**9) + 1, 10**9 - 1).map(lambda cents: decimal.Decimal(cents).scaleb(-2))),
    (pa.decimal256(40, 0), st.integers(-(10**39), 10**39).map(decimal.Decimal)),
    (pa.timestamp("us", "UTC"), st.integers(-(10**15), 10**15)),
    (pa.date32(), st.integers(-10_000, 10_000)),
    (pa.time64("us"), st.integers(0, 10**10)),
    (pa.duration("ms"), st.integers(-(10**9), 10**9)),
    (pa.null(), st.none()),
    (pa.uuid(), st.binary(min_size=16, max_size=16)),
]

DICTIONARIES = [
    (pa.string(), st.sampled_from(["", "a", "bb", "Zürich", "z"])),
    (pa.large_string(), st.sampled_from(["x", "y", "z"])),
    (pa.binary(), st.sampled_from([b"", b"\x00", b"\x00\x01"])),
    (pa.int64(), st.sampled_from([0, -1, 2**60])),
    (pa.float64(), st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])),
    (pa.decimal128(5, 1), st.sampled_from([decimal.Decimal("1.5"), decimal.Decimal("-2.0")])),
    (pa.timestamp("s"), st.sampled_from([0, 10**9])),
]
INDICES = [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32(), pa.int64()]


@st.composite
def columns(draw, rows, depth=2):  # noqa: PLR0911 - a return for each kind
    """Draw an array of `rows` values, its slots null or not, of a random type."""
    kinds = ["leaf", "leaf", "leaf", "dictionary"] + (["list", "large", "fixed", "struct", "map"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    valid = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
    nulls = None if valid.all() else ~valid
    if kind == "leaf":
        of, values = draw(st.sampled_from(LEAVES))
        drawn = draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))
        storage = of.storage_type if isinstance(of, pa.BaseExtensionType) else of
        array = pa.array(drawn, storage)
        return array if storage is of else pa.ExtensionArray.from_storage(of, array)
    if kind == "dictionary":
        of, values = draw(st.sampled_from(DICTIONARIES))
        return draw(dictionaries(rows, of, values, draw(st.sampled_from(INDICES))))
    if kind == "struct":
        children = [draw(columns(rows, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
        names = [f"f{i}" for i in range(len(children))]
        mask = None if nulls is None else pa.array(nulls)
        return pa.StructArray.from_arrays(children, names=names, mask=mask)
    if kind == "fixed":
        size = draw(st.integers(1, 3))
        mask = None if nulls is None else pa.array(nulls)
        return pa.FixedSizeListArray.from_arrays(draw(columns(rows * size, depth - 1)), size, mask=mask)
    sizes = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    bounds = np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])
    if kind == "map":
        keys = pa.array([f"k{i}" for i in range(bounds[-1])], pa.string())
        return pa.MapArray.from_arrays(pa.array(bounds, pa.int32()), keys, draw(columns(int(bounds[-1]), depth - 1)))
    child = draw(columns(int(bounds[-1]), depth - 1))
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(bounds, pa.int64()), child)
    mask = None if nulls is None else pa.array(nulls)
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), child, mask=mask)


@st.composite
def dictionaries(draw, rows, of, values, index):
    """Draw a dictionary array: values in any order, some unused or null, ordered or not."""
    held = draw(st.lists(st.one_of(st.none(), values), min_size=1, max_size=6, unique_by=repr))
    codes = draw(st.lists(st.one_of(st.none(), st.integers(0, len(held) - 1)), min_size=rows, max_size=rows))
    ordered = draw(st.booleans())
    return pa.DictionaryArray.from_arrays(pa.array(codes, index), pa.array(held, of), ordered=ordered)


@st.composite
def tables(draw, least=1, most=30, width=4):
    """Draw a table of random columns in one piece."""
    rows = draw(st.integers(least, most))
    found = [draw(columns(rows)) for _ in range(draw(st.integers(1, width)))]
    return pa.table(found, names=[f"c{i}" for i in range(len(found))])


def cuts(rows):
    """Return a strategy for offsets of chunks that cover `rows` rows; none is empty."""
    inner = st.lists(st.integers(1, max(rows - 1, 1)), max_size=4, unique=True)
    return inner.map(lambda at: np.array(sorted({0, rows, *(cut for cut in at if cut < rows)}), np.int64))
