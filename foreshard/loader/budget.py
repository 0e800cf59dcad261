"""How much memory a loader takes for chunks."""

from typing import Final

from foreshard.errors import BudgetError
from foreshard.loader.options import LoaderOptions

_LEAST: Final = 2
_AMPLE: Final = 4
"""Largest chunks that fit into the least memory: one read on demand, one fetched ahead, and some that stay."""


def memory_for_chunks(options: LoaderOptions, held: int, largest: int) -> int:
    """Return the bytes that a loader takes for chunks.

    Args:
        options: the loader's.
        held: bytes of the chunks of its split that its nodes hold.
        largest: size of the split's largest chunk.

    Raises:
        BudgetError: it was given too few to make progress.
    """
    if options.memory is None:
        return max(int(held * options.cache_fraction), _AMPLE * largest)
    least = _LEAST * largest
    if options.memory >= least:
        return options.memory
    needed, workers = f"LoaderOptions(memory=...) at least {least}", options.place.workers
    if workers > 1:
        needed = (
            f"LoaderOptions(memory=...), which data_loader divides by its {workers} workers, at least "
            f"{workers * least}, or take fewer workers"
        )
    raise BudgetError(
        f"memory budget of {options.memory} bytes is below the {least} bytes needed: one slot for on-demand reads and "
        f"one prefetched chunk; the layout's largest chunk has {largest} bytes. Give {needed}; leave memory out to "
        "let cache_fraction decide, which never takes too little; or lower reshard.max_chunk_rows"
    )
