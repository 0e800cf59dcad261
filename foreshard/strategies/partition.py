"""From a strategy to nodes without an optimiser: arrange, cut into equal chunks, deal them out."""

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.strategies.base import Dealing, Strategy, StrategyInput


def cut_groups(group: NDArray[np.int32], chunk_rows: int) -> NDArray[np.int64]:
    """Cut rows into chunks of at most `chunk_rows` rows that never cross a group.

    Each group is cut into as few chunks as possible, of sizes that differ by at most one row.

    Args:
        group: shape (m,), non-decreasing codes.
        chunk_rows: largest chunk.

    Returns:
        Shape (C + 1,), int64 offsets, 0 and m included.

    Raises:
        PlanError: `chunk_rows` is below 1.
    """
    if chunk_rows < 1:
        raise PlanError(f"chunk_rows is {chunk_rows}; it must be at least 1")
    rows = len(group)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1]).astype(np.int64)
    lengths = np.diff(np.append(starts, rows))
    counts = -(-lengths // chunk_rows)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = np.repeat(starts, counts) + place * np.repeat(lengths, counts) // np.repeat(np.maximum(counts, 1), counts)
    return np.append(offsets, rows).astype(np.int64)


def deal(offsets: NDArray[np.int64], dealing: Dealing, nodes: int) -> NDArray[np.int32]:
    """Return the node of every chunk.

    Args:
        offsets: shape (C + 1,) of chunks in packing order.
        dealing: "round_robin" gives chunk i to node i mod `nodes`; "contiguous" gives each node one stretch of about
            the same number of rows.
        nodes: number of nodes.

    Returns:
        Shape (C,), int32.

    Raises:
        PlanError: `nodes` is below 1.
    """
    if nodes < 1:
        raise PlanError(f"nodes is {nodes}; a partition needs at least 1")
    chunks = len(offsets) - 1
    if dealing == "round_robin":
        return (np.arange(chunks) % nodes).astype(np.int32)
    doubled = offsets[:-1] + offsets[1:]  # twice a chunk's middle row, so that the arithmetic stays in integers
    return (doubled * nodes // max(1, 2 * int(offsets[-1]))).astype(np.int32)


def partition(strategy: Strategy, data: StrategyInput, nodes: int, chunk_rows: int) -> NDArray[np.int32]:
    """Return the node of every row under a strategy and its default dealing.

    Chunks are made smaller than `chunk_rows` where nodes would otherwise go without rows.

    Args:
        strategy: how rows are arranged.
        data: the rows.
        nodes: number of nodes.
        chunk_rows: largest chunk.

    Returns:
        Shape (m,), int32; every node has a row if there are at least as many rows as nodes.

    Raises:
        PlanError: `nodes` or `chunk_rows` is below 1.
    """
    if nodes < 1 or chunk_rows < 1:
        raise PlanError(f"nodes is {nodes} and chunk_rows is {chunk_rows}; both must be at least 1")
    arranged = strategy(data)
    offsets = cut_groups(arranged.group, min(chunk_rows, max(1, data.rows // nodes)))
    node_of = np.empty(data.rows, np.int32)
    node_of[arranged.order] = np.repeat(deal(offsets, arranged.dealing, nodes), np.diff(offsets))
    return node_of
