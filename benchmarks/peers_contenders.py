"""The loaders that `benchmarks.loader_peers` compares: how each is opened, and the settings it is tuned over.

Every one yields batches of the same shape. A batch of samples is a pair: their payloads, a list of bytes-like objects,
and their labels, an array. A batch of rows is a dict of numpy arrays.
"""

import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from benchmarks.peers_data import COLUMNS, DATASET, Case, Kind, case_of, payload_views, record_type

_STREAM_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Run:
    """One epoch of one contender.

    Attributes:
        contender: a key of `CONTENDERS`.
        kind: see `Case`.
        rows: rows of the dataset.
        url: where its dataset is.
        endpoint: the S3 server; None for a local folder.
        files: names of the objects of a peer's dataset.
        caches: a folder in which it makes one of its own, removed afterwards, for what it keeps on disk.
        settings: of the contender.
        rate: rows a second of the emulated accelerator; None for none.
        limit_s: ends the epoch early after so many seconds; None for a whole one.
    """

    contender: str
    kind: Kind
    rows: int
    url: str
    endpoint: str | None
    files: list[str]
    caches: str
    settings: dict[str, Any]
    rate: float | None = None
    limit_s: float | None = None

    @property
    def case(self) -> Case:
        """How rows are read."""
        return case_of(self.kind, self.rows)


@dataclass(frozen=True)
class Contender:
    """A loader.

    Attributes:
        load: imports it.
        open: returns what yields a run's batches; the folder is empty, for what it keeps.
        grid: the values that each setting is tuned over.
    """

    load: Callable[[], object]
    open: Callable[[Run, Path], Iterable[Any]]
    grid: Mapping[str, tuple[Any, ...]]

    def settings(self) -> list[dict[str, Any]]:
        """Return every combination of the grid, most workers first.

        A process that has started obstore's threads cannot fork LitData's workers any more.
        """
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


# -- foreshard -----------------------------------------------------------------------------------------


def _load_foreshard() -> None:
    import foreshard.loader.loader
    import foreshard.loader.order
    import foreshard.shards.repository  # noqa: F401


def _open_foreshard(run: Run, folder: Path) -> Iterator[Any]:
    import foreshard

    del folder
    case = run.case
    repository = foreshard.Repository(foreshard.ObjectStore.open(run.url, endpoint=run.endpoint), DATASET)
    order = foreshard.BlockShuffleOrder(run.rows, seed=1, block=case.run_rows, window=case.window)
    columns = None if run.kind == "samples" else COLUMNS
    options = foreshard.LoaderOptions(
        global_batch=case.batch, remainder="keep", memory=case.memory, columns=columns, **run.settings
    )
    return _arrays(foreshard.Loader(repository, order, options), run.kind)


def _arrays(loader: Any, kind: Kind) -> Iterator[Any]:  # noqa: ANN401 - a foreshard.Loader, imported where it is used
    try:
        for batch in loader:
            if kind == "samples":
                yield payload_views(batch.rows.column("payload")), batch["label"]
            else:
                yield {name: batch[name] for name in COLUMNS}
    finally:
        loader.close()


# -- peers ---------------------------------------------------------------------------------------------


def collate_samples(rows: list[dict[str, Any]]) -> tuple[list[bytes], Any]:
    """Return payloads as they are and labels as an array."""
    return [row["payload"] for row in rows], np.array([row["label"] for row in rows], np.int64)


def collate_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an array a column."""
    return {name: np.array([row[name] for row in rows]) for name in COLUMNS}


def collate_files(pairs: list[tuple[bytes, bytes]]) -> tuple[list[bytes], Any]:
    """Return payloads as they are and labels, which are files of digits, as an array."""
    return [payload for payload, _ in pairs], np.array([int(label) for _, label in pairs], np.int64)


def collate_records(rows: list[tuple[bytes]]) -> dict[str, Any]:
    """Return an array a column of packed records."""
    records = np.frombuffer(b"".join(record for (record,) in rows), record_type())
    return {name: records[name] for name in COLUMNS}


def as_they_are(batch: Any) -> Any:  # noqa: ANN401 - any batch
    """Return a batch that is collated already."""
    return batch


def _load_mosaicml() -> None:
    from benchmarks.peers import mosaic_writer

    mosaic_writer()


def _open_mosaicml(run: Run, folder: Path) -> Iterable[Any]:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    os.environ["S3_ENDPOINT_URL"] = run.endpoint
    # A shard of narrow rows holds more than a block: its rows are shuffled, and not mixed with those of others.
    warnings.filterwarnings("ignore", message="Shuffle block size was smaller")
    clean_stale_shared_memory()
    batch = run.case.batch
    dataset = StreamingDataset(
        remote=run.url,
        local=str(folder),
        batch_size=batch,
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_block_size=run.case.block,
        predownload=run.settings["predownload_batches"] * batch,
    )
    return StreamingDataLoader(
        dataset, batch_size=batch, num_workers=run.settings["workers"], collate_fn=_collate(run.kind)
    )


def _load_litdata() -> None:
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # which would ask PyPI
    from litdata.streaming import downloader

    # Its clients refuse servers without TLS, and it has no option for them.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # noqa: SLF001


def _open_litdata(run: Run, folder: Path) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    # By default it shuffles chunks, in them blocks of 256, and what is in these. Shuffling whole chunks, with
    # item_shuffle_window="full", would be better but takes it several times as long: it reads a block for every sample.
    dataset = StreamingDataset(
        run.url,
        cache_dir=str(folder),
        shuffle=True,
        drop_last=False,
        max_cache_size="100GB",
        storage_options={"endpoint_url": run.endpoint, "region_name": "us-east-1"},
        max_pre_download=run.settings["max_pre_download"],
    )
    return StreamingDataLoader(
        dataset, batch_size=run.case.batch, num_workers=run.settings["workers"], collate_fn=_collate(run.kind)
    )


def _collate(kind: Kind) -> Callable[[list[Any]], Any]:
    return collate_samples if kind == "samples" else collate_rows


def _load_webdataset() -> None:
    import webdataset  # noqa: F401


def _open_webdataset(run: Run, folder: Path) -> Iterable[Any]:
    import webdataset as wds
    from webdataset.gopen import gopen_schemes

    del folder
    if run.settings["opener"] == "curl":
        urls = _signed_urls(run)
    else:
        gopen_schemes["s3"] = lambda url, *_args, **_options: _open_object(url, run.endpoint)
        urls = [f"{run.url}/{name}" for name in run.files]
    names, collate = (("bin", "cls"), collate_files) if run.kind == "samples" else (("row",), collate_records)
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), seed=1, empty_check=False)
        .shuffle(run.case.buffer)
        .to_tuple(*names)
        .batched(run.case.batch, collation_fn=collate)
    )
    # Without a function to collate with, batches would be turned into tensors.
    return wds.WebLoader(dataset, batch_size=None, num_workers=run.settings["workers"], collate_fn=as_they_are)


def _signed_urls(run: Run) -> list[str]:
    """Return URLs that curl, with which WebDataset opens them, can read without credentials."""
    from botocore.session import Session

    client = Session().create_client("s3", endpoint_url=run.endpoint, region_name="us-east-1")
    bucket, prefix = urlsplit(run.url).netloc, urlsplit(run.url).path.strip("/")
    return [
        client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": f"{prefix}/{name}"}, ExpiresIn=7_200)
        for name in run.files
    ]


class _ObjectStream(io.RawIOBase):
    """An object as a file that is read once, in parts of 8 MB. WebDataset has no reader for S3 of its own."""

    def __init__(self, url: str, endpoint: str) -> None:
        import obstore
        from obstore.store import S3Store

        at = urlsplit(url)
        store = S3Store(
            at.netloc, config={"region": "us-east-1", "endpoint": endpoint}, client_options={"allow_http": True}
        )
        self._parts = iter(obstore.get(store, at.path.lstrip("/")).stream(min_chunk_size=_STREAM_BYTES))
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _open_object(url: str, endpoint: str) -> io.BufferedReader:
    return io.BufferedReader(_ObjectStream(url, endpoint), 1 << 20)


_WORKERS: Final = (2, 1, 0)
PEER_CONTENDERS: Final = {
    "mosaicml": Contender(_load_mosaicml, _open_mosaicml, {"workers": _WORKERS, "predownload_batches": (8, 32)}),
    "litdata": Contender(
        _load_litdata,
        _open_litdata,
        {"workers": _WORKERS, "max_pre_download": (2, 8)},
    ),
    "webdataset": Contender(_load_webdataset, _open_webdataset, {"workers": _WORKERS, "opener": ("curl", "obstore")}),
}
_OURS: Final = Contender(_load_foreshard, _open_foreshard, {})
CONTENDERS: Final = {"foreshard": _OURS, **PEER_CONTENDERS}
