"""Names of everything foreshard keeps in the object store, built from validated parts only."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foreshard.errors import ConfigError, ObjectNotFoundError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_GENERATION = re.compile(r"(?P<run>[A-Za-z0-9][A-Za-z0-9_-]{0,127})\.e(?P<epoch>[0-9]{6,})")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,191}")
_KINDS = ("events", "samples")
_HOLDERS = ("reader", "writer", "gc")
_DIGEST = re.compile(r"[0-9a-f]{16,64}")


def check_name(name: str, what: str) -> str:
    """Return `name` if it may stand in an object key and a partition key.

    Args:
        name: the dataset, run or node name.
        what: the word for it in the error message.

    Raises:
        ConfigError: the name holds anything but letters, digits, `_` and `-`, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} name {name!r} is not usable: use 1 to 128 letters, digits, '_' or '-', starting with a "
            "letter or digit"
        )
    return name


def generation_key(run: str, epoch: int) -> str:
    """Return the key of the generation that `run` reads after `epoch` finished epochs: `<run>.e<epoch:06d>`."""
    if epoch < 0:
        raise ConfigError(f"epoch {epoch} is negative; a generation's boundary counts finished epochs from 0")
    return f"{check_name(run, 'run')}.e{epoch:06d}"


def parse_generation_key(key: str) -> tuple[str, int]:
    """Split a generation key into its run and boundary epoch.

    Raises:
        ConfigError: the key is not of the form `<run>.e<epoch:06d>`.
    """
    match = _GENERATION.fullmatch(key)
    if match is None or match["epoch"] != f"{int(match['epoch']):06d}":
        raise ConfigError(
            f"generation key {key!r} is not '<run>.e<epoch>' with the epoch in six digits (more only from a million "
            "on), like 'demo.e000004'"
        )
    return match["run"], int(match["epoch"])


@dataclass(frozen=True)
class LayoutRef:
    """Names one layout: a generation key and the digest of the plan it is made from."""

    generation: str
    plan_digest: str

    def __str__(self) -> str:
        return f"{self.generation}/{self.plan_digest}"


def find_layout(layout: object, layouts: Callable[[str], Sequence[LayoutRef]], where: str) -> LayoutRef:
    """Return the layout that a text names: `<generation>/<plan digest>`, or a generation that has but one.

    Args:
        layout: the text, or a reference, which is returned.
        layouts: returns the committed layouts of a generation.
        where: the store, for the error's message.

    Raises:
        ObjectNotFoundError: the generation has no committed layout.
        ConfigError: it has several, or this is no text.
    """
    if isinstance(layout, LayoutRef):
        return layout
    if not isinstance(layout, str):
        raise ConfigError(
            f"layout {layout!r} is of type {type(layout).__name__}; give a LayoutRef, as of "
            "repository.layouts('<run>.e000000'), or its text, '<run>.e000000/<plan digest>'"
        )
    generation, _, digest = layout.partition("/")
    parse_generation_key(generation)
    found = [LayoutRef(generation, digest)] if digest else layouts(generation)
    if len(found) > 1:
        raise ConfigError(f"{layout!r} has {len(found)} layouts; give one of {', '.join(map(str, found))}")
    if not found:
        raise ObjectNotFoundError(
            f"generation {layout!r} has no committed layout in {where}; give one of repository.generations()"
        )
    return found[0]


def _digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ConfigError(f"digest {digest!r} is not 16 to 64 lower-case hexadecimal digits")
    return digest


def _parts(name: str) -> str:
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ConfigError(
            f"object name {name!r} is not usable: use parts of letters, digits, '_', '-' and '.', each starting with a "
            "letter or digit, separated by '/'"
        )
    return name


def _count(number: int, what: str) -> int:
    if number < 0:
        raise ConfigError(f"{what} {number} is negative; it counts from 0")
    return number


@dataclass(frozen=True)
class DatasetKeys:
    """Object keys below one dataset's prefix; nothing outside that prefix is ever touched."""

    dataset: str

    def __post_init__(self) -> None:
        check_name(self.dataset, "dataset")

    # -- the snapshot and what is derived from it alone ------------------------------------------------
    def snapshot(self, fingerprint: str) -> str:
        """Files, sizes, rows and schema of one state of the source."""
        return f"{self.dataset}/snapshots/{_digest(fingerprint)}/snapshot.json"

    def blocks(self, fingerprint: str) -> str:
        """Checksums of the blocks of the source's files: one Arrow column of uint64, bound by `snapshot.json`."""
        return f"{self.dataset}/snapshots/{_digest(fingerprint)}/blocks.arrow"

    def splits(self, fingerprint: str) -> str:
        """Split of every sample: one Arrow column of uint8, in sample-id order."""
        return f"{self.dataset}/snapshots/{_digest(fingerprint)}/splits.arrow"

    def profile(self, fingerprint: str) -> str:
        """Size, distributions, correlations and skew of the snapshot."""
        return f"{self.dataset}/snapshots/{_digest(fingerprint)}/profile.json"

    def trials(self, digest: str) -> str:
        """Measured consistency of strategies; `digest` names what was measured and how."""
        return f"{self.dataset}/consistency/{_digest(digest)}/trials.parquet"

    def predictor(self, digest: str) -> str:
        """The predictor's card: what it was trained on and its cross-validated error."""
        return f"{self.dataset}/consistency/{_digest(digest)}/predictor.json"

    def recipe(self, digest: str) -> str:
        """Objective weights, root seed, bounds and cluster of a re-shard."""
        return f"{self.dataset}/recipes/{_digest(digest)}.json"

    # -- one generation's way to a layout --------------------------------------------------------------
    def work(self, generation: str, name: str) -> str:
        """An intermediate result of the chain for one generation, e.g. `events.parquet`."""
        parse_generation_key(generation)
        return "/".join((self.dataset, "work", generation, _parts(name)))

    # -- committed, immutable layouts ------------------------------------------------------------------
    def layout(self, generation: str, plan_digest: str, name: str) -> str:
        """A part of a committed layout: `plan.json`, `plan.arrow`, `manifest.json`, `prefetch/<node>.arrow`."""
        parse_generation_key(generation)
        return f"{self.dataset}/layouts/{generation}/{_digest(plan_digest)}/{_parts(name)}"

    @property
    def layouts(self) -> str:
        """Prefix of all layouts."""
        return f"{self.dataset}/layouts/"

    def parse_layout(self, key: str) -> tuple[LayoutRef, str] | None:
        """Split the key of a layout's object into layout and name; None where it is no such key."""
        prefix, parts = self.layouts, key[len(self.layouts) :].split("/", 2)
        if not key.startswith(prefix) or len(parts) != 3:  # noqa: PLR2004 - generation, digest, name
            return None
        generation, digest, name = parts
        try:
            expected = self.layout(generation, digest, name)
        except ConfigError:
            return None
        return (LayoutRef(generation, digest), name) if expected == key else None

    def journal(self, generation: str, plan_digest: str, name: str = "") -> str:
        """What an unfinished materialisation has put already: one record, or the prefix of them all."""
        prefix = self.layout(generation, plan_digest, "journal") + "/"
        return prefix + _parts(name) if name else prefix

    @property
    def shards(self) -> str:
        """Prefix of all shard objects."""
        return f"{self.dataset}/shards/"

    def shard(self, digest: str) -> str:
        """A shard object, named by the SHA-256 of its content."""
        return f"{self.dataset}/shards/{_digest(digest)[:2]}/{digest}.arrow"

    @property
    def current(self) -> str:
        """The pointer to the layout that new readers open."""
        return f"{self.dataset}/current.json"

    def publication(self, fence: int, token: str) -> str:
        """The record of one move of the pointer; `token` tells rivals for one fence apart."""
        return f"{self.publications}f{_count(fence, 'fence'):012d}-{_digest(token)}.json"

    @property
    def publications(self) -> str:
        """Prefix of the records of the pointer's moves."""
        return f"{self.dataset}/publications/"

    # -- what keeps objects from being deleted ---------------------------------------------------------
    def lease(self, kind: str, lease_id: str) -> str:
        """What somebody holds while reading or writing; `kind` is `reader`, `writer` or `gc`."""
        if kind not in _HOLDERS:
            raise ConfigError(f"lease kind {kind!r} is unknown; use one of {', '.join(_HOLDERS)}")
        return f"{self.leases}{kind}-{_digest(lease_id)}.json"

    @property
    def leases(self) -> str:
        """Prefix of all leases."""
        return f"{self.dataset}/leases/"

    @property
    def gc(self) -> str:
        """Whether garbage is being collected, by whom, and which layouts may go."""
        return f"{self.dataset}/gc.json"

    # -- what training jobs report ---------------------------------------------------------------------
    @property
    def runs(self) -> str:
        """Prefix of everything that training jobs wrote."""
        return f"{self.dataset}/runs/"

    def markers(self, run: str) -> str:
        """Prefix of a run's epoch markers."""
        return f"{self.dataset}/runs/{check_name(run, 'run')}/epochs/"

    def marker(self, run: str, epoch: int) -> str:
        """The create-only object written when an epoch's logs are durable; epoch 0 registers the run."""
        return f"{self.markers(run)}e{_count(epoch, 'epoch'):06d}.json"

    def log(self, run: str, epoch: int, rank: int, write_id: str, kind: str) -> str:
        """One rank's log of one epoch (`kind` is `events` or `samples`); `write_id` keeps attempts apart."""
        if kind not in _KINDS:
            raise ConfigError(f"log kind {kind!r} is unknown; use one of {', '.join(_KINDS)}")
        name = f"{kind}-r{_count(rank, 'rank'):04d}-{check_name(write_id, 'write id')}.parquet"
        return f"{self.dataset}/runs/{check_name(run, 'run')}/logs/e{_count(epoch, 'epoch'):06d}/{name}"
