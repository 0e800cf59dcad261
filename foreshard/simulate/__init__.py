"""Replay of a chunk trace against LRU, MIN and our policy."""
