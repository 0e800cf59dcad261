"""Which layouts garbage collection keeps, and why."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from foreshard.keys import DatasetKeys, LayoutRef, parse_generation_key
from foreshard.retention import RetentionConfig
from foreshard.shards.lease_record import FoundLease
from foreshard.shards.pointer import Current, publications
from foreshard.storage import ObjectMeta, ObjectStore

HEADER = "manifest.json"


@dataclass
class LayoutFiles:
    """The objects of one layout, committed or not.

    Attributes:
        header: its `manifest.json`, if it is committed.
        others: the rest, by name.
    """

    header: ObjectMeta | None = None
    others: dict[str, ObjectMeta] = field(default_factory=dict[str, ObjectMeta])

    @property
    def metas(self) -> list[ObjectMeta]:
        """All objects, the header first."""
        return [*([self.header] if self.header else []), *self.others.values()]


@dataclass(frozen=True)
class Chain:
    """What was published.

    Attributes:
        publications: the current one first.
        records: when each record was written, by key and the store's clock, those of lost races among them.
    """

    publications: Sequence[Current]
    records: Mapping[str, ObjectMeta]

    def key(self, keys: DatasetKeys, publication: Current) -> str:
        """Return the key of a publication's record."""
        return keys.publication(publication.fence, publication.token)


@dataclass(frozen=True)
class Decision:
    """What becomes of the committed layouts.

    Attributes:
        kept: reasons to keep, by layout.
        doomed: the others.
    """

    kept: Mapping[LayoutRef, tuple[str, ...]]
    doomed: tuple[LayoutRef, ...]


def find_layouts(store: ObjectStore, keys: DatasetKeys) -> dict[LayoutRef, LayoutFiles]:
    """Return the objects of every layout; what is below the prefix without being a layout's is left out."""
    found: defaultdict[LayoutRef, LayoutFiles] = defaultdict(LayoutFiles)
    for meta in store.list(keys.layouts):
        parsed = keys.parse_layout(meta.key)
        if parsed is not None and parsed[1] == HEADER:
            found[parsed[0]].header = meta
        elif parsed is not None:
            found[parsed[0]].others[parsed[1]] = meta
    return dict(found)


def find_chain(store: ObjectStore, keys: DatasetKeys) -> Chain:
    """Return what was published.

    Raises:
        CorruptDataError: the pointer or a record is damaged or missing.
    """
    # Listed first: a record that appears meanwhile is nobody's to remove.
    records = {meta.key: meta for meta in store.list(keys.publications)}
    return Chain(list(publications(store, keys)), records)


def decide(
    layouts: Mapping[LayoutRef, LayoutFiles],
    chain: Chain,
    held: Iterable[FoundLease],
    policy: RetentionConfig,
    *,
    keys: DatasetKeys,
    now: datetime,
) -> Decision:
    """Apply the retention policy to the committed layouts.

    Args:
        layouts: from `find_layouts`.
        chain: from `find_chain`.
        held: live leases.
        policy: what to keep.
        keys: names of the dataset's objects.
        now: the time by the store's clock.
    """
    reasons: defaultdict[LayoutRef, list[str]] = defaultdict(list)
    if chain.publications:
        reasons[chain.publications[0].ref].append("current")
    for ref, nth in _recent(chain.publications, policy.keep_generations).items():
        reasons[ref].append(f"published generation {nth} from the last of its run")
    for found in held:
        if found.lease.layout is not None:
            reasons[found.lease.layout].append(found.lease.what)
    replaced = _replaced(chain, keys)
    for ref, files in layouts.items():
        if files.header is not None:
            last = max(files.header.modified, replaced.get(ref, files.header.modified))
            if now - last < timedelta(hours=policy.keep_hours):
                what = "replaced as current" if last > files.header.modified else "committed"
                reasons[ref].append(f"{what} {last.isoformat(timespec='seconds')}, within {policy.keep_hours:g} hours")
    committed = [ref for ref, files in layouts.items() if files.header is not None]
    kept = {ref: tuple(reasons[ref]) for ref in committed if ref in reasons}
    return Decision(kept, tuple(ref for ref in committed if ref not in kept))


def _recent(chain: Sequence[Current], count: int) -> dict[LayoutRef, int]:
    """Return the layouts published for the last `count` generations of every run, with the generation's place."""
    generations: defaultdict[str, list[str]] = defaultdict(list)
    for publication in chain:
        run, _ = parse_generation_key(publication.ref.generation)
        if publication.ref.generation not in generations[run]:
            generations[run].append(publication.ref.generation)
    places = {generation: nth for of_run in generations.values() for nth, generation in enumerate(of_run, 1)}
    return {p.ref: places[p.ref.generation] for p in chain if places[p.ref.generation] <= count}


def _replaced(chain: Chain, keys: DatasetKeys) -> dict[LayoutRef, datetime]:
    """Return when each layout that was current last stopped to be so, by the store's clock."""
    found: dict[LayoutRef, datetime] = {}
    for newer, older in zip(chain.publications[:-1], chain.publications[1:], strict=True):
        record = chain.records.get(chain.key(keys, newer))
        if record is not None:
            found.setdefault(older.ref, record.modified)
    return found
