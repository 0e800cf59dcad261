"""Placeholder until the vectorised version lands."""

import numpy as np

from foreshard.shards.metadata import generate_seed, order_digest, shuffle_rows


def chunk_seeds(content_ids, origin_codes, origins):
    seeds = [
        generate_seed(
            c.tobytes(),
            fingerprint=origins[o].fingerprint,
            strategy=origins[o].strategy,
            root_seed=origins[o].root_seed,
        )
        for c, o in zip(content_ids, origin_codes.tolist(), strict=True)
    ]
    return np.frombuffer(b"".join(seeds), np.uint8).reshape(-1, 16)


def stored_order(sample_ids, offsets, seeds):
    out = np.empty_like(sample_ids)
    for i in range(len(offsets) - 1):
        out[offsets[i] : offsets[i + 1]] = shuffle_rows(sample_ids[offsets[i] : offsets[i + 1]], seeds[i].tobytes())
    return out


def order_digests(stored, offsets):
    raw = b"".join(order_digest(stored[offsets[i] : offsets[i + 1]]) for i in range(len(offsets) - 1))
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)
