"""Many cache policies run side by side over a trace, window by window, on its metadata alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.trace import Trace
from foreshard.errors import ConfigError
from foreshard.simulate.caches import KEEP, Cache, Keep, Lru
from foreshard.simulate.pinned import Pinned
from foreshard.simulate.s3fifo import S3Fifo
from foreshard.simulate.sieve import Sieve

REACTIVE: Final[Mapping[str, Callable[[NDArray[np.int64], int], Cache]]] = {
    "lru": Lru,
    "s3-fifo": S3Fifo,
    "sieve": Sieve,
    KEEP: Keep,
}
"""Caches that do not know the future, by name."""


@dataclass(frozen=True)
class Policy:
    """What a cache does.

    Attributes:
        name: one of `REACTIVE`, `pin`, or `hybrid-<fraction>`.
        pin_fraction: share of the cache that a forecast pins, in [0, 1].
        rest: what the rest of the cache does, one of `REACTIVE`; None if nothing else is kept.
    """

    name: str
    pin_fraction: float
    rest: str | None

    @property
    def reactive(self) -> bool:
        """Whether no forecast takes part."""
        return self.pin_fraction == 0


def hybrid(pin_fraction: float, rest: str = "lru") -> Policy:
    """Return the policy that pins a share of the cache and leaves the rest to a reactive cache."""
    return Policy(f"hybrid-{pin_fraction:g}", pin_fraction, rest)


POLICIES: Final = (
    *(Policy(name, 0.0, name) for name in REACTIVE),
    Policy("pin", 1.0, None),
    hybrid(0.9),
    hybrid(0.75),
    hybrid(0.5),
)
"""What is compared unless told otherwise."""


@dataclass(frozen=True)
class Tally:
    """What a policy made of a window.

    Attributes:
        requests: how many there were.
        hits: of those, how many found their object in memory.
        loads: objects fetched, ahead or on demand.
        ahead: of those, how many were fetched as the window started.
        request_bytes: bytes requested.
        hit_bytes: of those, bytes of the hits.
        load_bytes: bytes fetched.
    """

    requests: int
    hits: int
    loads: int
    ahead: int
    request_bytes: int
    hit_bytes: int
    load_bytes: int

    def __add__(self, other: "Tally") -> "Tally":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Tally(*(mine + its for mine, its in pairs))

    @property
    def hit_rate(self) -> float:
        """Hits over requests; 0 if there were none."""
        return self.hits / self.requests if self.requests else 0.0


NOTHING: Final = Tally(0, 0, 0, 0, 0, 0, 0)


class Shadow:
    """Policies at work on one trace, each with a cache of its own that goes on from window to window.

    Args:
        trace: its objects and their sizes are used, and the requests that `run` is asked for.
        capacity: bytes of each cache.
        policies: distinct names.

    Raises:
        ConfigError: an unknown policy, one given twice, or none.
    """

    def __init__(self, trace: Trace, capacity: int, policies: Sequence[Policy] = POLICIES) -> None:
        names = [policy.name for policy in policies]
        wrong = [p for p in policies if not 0 <= p.pin_fraction <= 1 or (p.rest is None) != (p.pin_fraction == 1)]
        wrong += [p for p in policies if p.rest is not None and p.rest not in REACTIVE]
        if wrong or not names or len(set(names)) != len(names):
            example = f" ({wrong[0]})" if wrong else ""
            raise ConfigError(
                f"policies {names} are not usable{example}: give distinct ones that leave the share of the cache "
                f"that is not pinned to one of {', '.join(REACTIVE)}"
            )
        self._trace, self._policies = trace, tuple(policies)
        self._caches = {policy.name: _open(policy, trace.nbytes, capacity) for policy in policies}

    def run(self, window: int, expected: NDArray[np.float64] | None) -> dict[str, Tally]:
        """Serve one window under every policy.

        Args:
            window: its number.
            expected: float64 (C,), requests expected of every object in it; None where nobody can tell, so that what
                is pinned stays.

        Raises:
            ConfigError: `expected` is of another shape.
        """
        sizes, objects = self._trace.nbytes, self._trace.window(window)
        ranked = None if expected is None else rank_by_worth(expected, sizes)
        requested = sizes[objects]
        return {name: _serve(cache, sizes, objects, requested, ranked) for name, cache in self._caches.items()}

    def holds(self, name: str) -> NDArray[np.bool_]:
        """Return which objects a policy's cache holds now, bool (C,)."""
        return self._caches[name].holds()


def rank_by_worth(expected: NDArray[np.float64], nbytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the objects that are expected at all, by requests per byte, the best first; ties by number.

    Args:
        expected: float64 (C,).
        nbytes: int64 (C,).

    Raises:
        ConfigError: they are not of one shape.
    """
    if expected.shape != nbytes.shape:
        raise ConfigError(f"a forecast of shape {expected.shape} does not fit {len(nbytes)} objects; give one for each")
    wanted = np.flatnonzero(expected > 0)
    return wanted[np.argsort(-(expected[wanted] / nbytes[wanted]), kind="stable")]


def pinned_bytes(pin_fraction: float, capacity: int) -> int:
    """Return the bytes of a cache that are pinned."""
    return int(round(pin_fraction * capacity, 6))


def _open(policy: Policy, nbytes: NDArray[np.int64], capacity: int) -> Cache | Pinned:
    pinned = pinned_bytes(policy.pin_fraction, capacity)
    rest = REACTIVE[policy.rest](nbytes, capacity - pinned) if policy.rest is not None else None
    if policy.reactive:
        assert rest is not None, "checked by Shadow"
        return rest
    return Pinned(nbytes, pinned, rest)


def _serve(
    cache: Cache | Pinned,
    sizes: NDArray[np.int64],
    objects: NDArray[np.int32],
    requested: NDArray[np.int64],
    ranked: NDArray[np.int64] | None,
) -> Tally:
    fetched = cache.pin(ranked) if isinstance(cache, Pinned) and ranked is not None else np.empty(0, np.int64)
    hit = cache.touch(objects)
    hits, hit_bytes = int(np.count_nonzero(hit)), int(requested[hit].sum())
    total = int(requested.sum())
    return Tally(
        requests=len(objects),
        hits=hits,
        loads=len(objects) - hits + len(fetched),
        ahead=len(fetched),
        request_bytes=total,
        hit_bytes=hit_bytes,
        load_bytes=total - hit_bytes + int(sizes[fetched].sum()),
    )
