"""An iterator that is one step ahead of its consumer, in a thread of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator while the next one is being made; what it raises is raised in its place."""
    end = object()
    with ThreadPoolExecutor(1, "foreshard-ahead") as pool:
        coming = pool.submit(next, items, end)
        while True:
            item = coming.result()
            if item is end:
                return
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
