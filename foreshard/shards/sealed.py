"""Small JSON objects that carry a digest of themselves, so that a flipped bit is noticed instead of believed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from foreshard.errors import CorruptDataError


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(body: Mapping[str, Any]) -> bytes:
    """Return `body` as indented JSON text with the SHA-256 of its canonical form added under `sha256`."""
    return json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True).encode()


def unseal(raw: bytes, key: str) -> dict[str, Any]:
    """Return the body that `seal` wrote.

    Args:
        raw: the object's bytes.
        key: its key, for the error message.

    Raises:
        CorruptDataError: the bytes are not JSON, or do not match their digest.
    """
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise CorruptDataError(f"{key!r} is not JSON ({error}); restore it, or delete it and publish again") from error
    if not isinstance(body, dict):
        raise CorruptDataError(f"{key!r} holds no JSON object; restore it, or delete it and publish again")
    stated = body.pop("sha256", None)
    if stated != _digest(body):
        raise CorruptDataError(
            f"{key!r} does not match the digest it carries ({stated!r}); restore it, or delete it and publish again"
        )
    return body
