"""The small sealed JSON object that makes a layout exist, and the references in it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from foreshard.errors import CorruptDataError
from foreshard.keys import LayoutRef
from foreshard.shards.sealed import seal, unseal

FORMAT: Final = 2
"""Version of the manifest's own layout."""


@dataclass(frozen=True)
class ShardRef:
    """A shard object: its key, the SHA-256 of its content (hexadecimal) and its size in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class PartRef:
    """A part of a layout beside the header.

    Attributes:
        name: object name below the layout.
        sha256: SHA-256 of its content, hexadecimal; what names it.
        xxh3: XXH3-128 of its content, hexadecimal; what every reader verifies, at the speed of memory.
        size: bytes.
    """

    name: str
    sha256: str
    xxh3: str
    size: int


@dataclass(frozen=True)
class Header:
    """What `manifest.json` holds: everything about a layout that is not per chunk, per shard or per sample.

    Attributes:
        dataset: the dataset's name.
        generation: the generation key.
        plan_digest: digest of the plan the shards were made from.
        parent: the layout that this one replaced, None for the first.
        fingerprint: the snapshot's fingerprint.
        strategy: name of the partitioning strategy.
        root_seed: root of the chunk seeds.
        algorithm_version: `seeding.ALGORITHM_VERSION` at the time of writing.
        rows: number of samples.
        chunks: number of chunks.
        shards: number of shard objects.
        nodes: node names; a chunk's `node` is a position here.
        schema_hex: the chunks' serialised Arrow schema, in hexadecimal.
        parts: the layout's other objects by kind: `manifest`, `index`, `shards`, `consistency` and, where the source
            has dictionary columns, `dictionaries`.
        versions: libraries that wrote the layout.
    """

    dataset: str
    generation: str
    plan_digest: str
    parent: LayoutRef | None
    fingerprint: str
    strategy: str
    root_seed: int
    algorithm_version: int
    rows: int
    chunks: int
    shards: int
    nodes: tuple[str, ...]
    schema_hex: str
    parts: Mapping[str, PartRef]
    versions: Mapping[str, str]
    format: int = FORMAT

    @property
    def ref(self) -> LayoutRef:
        """What names this layout in the repository."""
        return LayoutRef(self.generation, self.plan_digest)

    def to_json(self) -> bytes:
        """Return the header as sealed JSON."""
        return seal(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes, key: str) -> "Header":
        """Rebuild a header from `to_json`'s output.

        Args:
            raw: the bytes of `manifest.json`.
            key: its object key, for error messages.

        Raises:
            CorruptDataError: the bytes are damaged or of another format version.
        """
        body = unseal(raw, key)
        if body.get("format") != FORMAT:
            fix = "upgrade foreshard" if body.get("format", 0) > FORMAT else "materialise its plan again"
            raise CorruptDataError(
                f"{key!r} has manifest format {body.get('format')!r}, this foreshard reads {FORMAT}; {fix}"
            )
        try:
            return cls(**{**body, **_typed(body)})
        except (KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{key!r} lacks a field or has an unknown one: {error}; rebuild the layout"
            ) from error


def _typed(body: dict[str, Any]) -> dict[str, Any]:
    """Give the header's nested JSON values their types back."""
    return {
        "parent": body["parent"] and LayoutRef(**body["parent"]),
        "nodes": tuple(body["nodes"]),
        "parts": {kind: PartRef(**part) for kind, part in body["parts"].items()},
    }
