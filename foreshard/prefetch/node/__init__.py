"""A cache of chunks on a machine's own disk, shared by all of its processes."""

from foreshard.prefetch.node.cache import NodeCache
from foreshard.prefetch.node.stats import NodeStats

__all__ = ["NodeCache", "NodeStats"]
