"""Shard objects in the store: codec, manifest, materialisation and the repository of generations."""
