"""foreshard: learns how training jobs read a dataset, re-packs it, and feeds it before the loop asks."""

__version__ = "0.1.0"
