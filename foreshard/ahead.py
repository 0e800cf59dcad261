"""An iterator that is one step ahead of its consumer, in a thread of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator while the next one is being made; what it raises is raised in its place."""

    def step() -> list[T]:
        return list(islice(items, 1))

    with ThreadPoolExecutor(1, "foreshard-ahead") as pool:
        coming = pool.submit(step)
        while found := coming.result():
            coming = pool.submit(step)
            yield found[0]
