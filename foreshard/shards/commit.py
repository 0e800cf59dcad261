"""Committed layouts: a layout exists once its `manifest.json` does, which is written last and once."""

from typing import Final

from foreshard.errors import ConfigError, ConflictError, CorruptDataError, ObjectExistsError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.header import Header
from foreshard.shards.journal import clear_journal
from foreshard.shards.manifest import Manifest
from foreshard.shards.refetch import refetch
from foreshard.storage import ObjectStore

HEADER: Final = "manifest.json"

_COMMIT_ORDER: Final = ("dictionaries", "shards", "index", "manifest", "consistency")
_BINDING: Final = ("fingerprint", "strategy", "root_seed", "algorithm_version", "rows", "nodes", "schema_hex")
_BINDING_PARTS: Final = ("shards", "index", "dictionaries")


def is_committed(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> bool:
    """Whether a layout is complete and may be opened."""
    return store.exists(_key(keys, ref))


def commit_layout(store: ObjectStore, keys: DatasetKeys, manifest: Manifest) -> LayoutRef:
    """Make a materialised layout exist: write the manifest's parts, then `manifest.json`.

    Committing again, here or by a competing writer, finds the layout in place. What does not decide the shards
    (access counts, scores, library versions) may differ then; the first commit stands.

    Raises:
        ConflictError: the layout was committed with other shards.
        ConfigError: the manifest was opened from the repository, not materialised, and is not committed.
    """
    ref = manifest.ref
    if is_committed(store, keys, ref):
        _check_same(store, keys, manifest.header)
    else:
        _write(store, keys, manifest)
    clear_journal(store, keys, ref)
    return ref


def read_header(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> Header:
    """Return a layout's header.

    Raises:
        ObjectNotFoundError: the layout is not committed.
        CorruptDataError: the header is damaged or is another layout's.
    """
    key = _key(keys, ref)

    def read() -> Header:
        try:
            raw = store.get(key)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"layout {ref} is not committed in {store.url} ({key!r} is missing); materialise and commit it"
            ) from error
        header = Header.from_json(raw, key)
        if (header.dataset, header.ref) != (keys.dataset, ref):
            raise CorruptDataError(f"{key!r} is the header of {header.ref} of dataset {header.dataset!r}; restore it")
        return header

    return refetch(store, read)


def _key(keys: DatasetKeys, ref: LayoutRef, name: str = HEADER) -> str:
    return keys.layout(ref.generation, ref.plan_digest, name)


def _write(store: ObjectStore, keys: DatasetKeys, manifest: Manifest) -> None:
    ref, header = manifest.ref, manifest.header
    missing = sorted(set(header.parts) - set(manifest.parts))
    if missing:
        raise ConfigError(f"layout {ref} lacks {', '.join(missing)} here; commit what `materialize` returned")
    for kind in _COMMIT_ORDER:
        if kind in header.parts:
            part = memoryview(manifest.parts[kind]).cast("B")
            store.create(_key(keys, ref, header.parts[kind].name), part)
    try:
        store.create(_key(keys, ref), header.to_json())
    except ObjectExistsError:
        _check_same(store, keys, header)


def _check_same(store: ObjectStore, keys: DatasetKeys, header: Header) -> None:
    standing = read_header(store, keys, header.ref)
    same = {name: (getattr(standing, name), getattr(header, name)) for name in _BINDING}
    same |= {kind: (standing.parts.get(kind), header.parts.get(kind)) for kind in _BINDING_PARTS}
    for name, (there, here) in same.items():
        if there != here:
            raise ConflictError(
                f"layout {header.ref} is committed with another {name} than this materialisation gave; the plan "
                "was not reproduced: compare the header's `versions`, and materialise under a new generation"
            )
