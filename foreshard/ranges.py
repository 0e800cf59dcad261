"""Byte ranges of one object: which requests to make for them, and how to cut the answers."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

COALESCE: Final = 1 << 20
"""Ranges that lie no further apart than this (bytes) are read in one request: cheaper than another round trip."""


def merge_ranges(ranges: Sequence[tuple[int, int]], gap: int = COALESCE) -> list[tuple[int, int]]:
    """Return the spans to fetch: ascending, more than `gap` bytes apart, covering every non-empty range."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if spans and start - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def cut_ranges(
    ranges: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]], buffers: Sequence[memoryview]
) -> list[memoryview]:
    """Return a view for each range, in the order asked, given what was read for the spans of `merge_ranges`."""
    starts = [start for start, _ in spans]
    views: list[memoryview] = []
    for start, end in ranges:
        if start == end:
            views.append(memoryview(b""))
            continue
        at = bisect_right(starts, start) - 1
        views.append(buffers[at][start - starts[at] : end - starts[at]])
    return views
