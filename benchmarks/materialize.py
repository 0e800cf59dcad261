"""Materialisation against MosaicML's writer on a local disk and plain puts on S3; its bytes, memory and opening.

Run with `make bench ARGS=materialize`. Ratios come from rounds in turn, medians of five; both sides of the first do the
whole way from the same Parquet files to shards, of the same samples in the same shuffled order.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.store import S3Store

from benchmarks import harness, peers, workloads
from benchmarks.harness import Figure, Options
from foreshard.storage import ObjectStore

_PUTS: Final = 8
_CHANGED: Final = 0.02
_DISK_COPIES: Final = 4
"""What materialising a dataset takes on disk, in sizes of it: source, spool, shards, and one to spare."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = harness.parse_options("materialize", str(__doc__).splitlines()[0], arguments)
    harness.print_environment()
    with tempfile.TemporaryDirectory(prefix="foreshard-bench-run-") as name:
        folder = Path(name)
        figures, details = [], {}
        for measure in (local, s3, incremental, memory, opening):
            found, more = measure(options, folder)
            figures += found
            details |= more
    harness.finish(options, figures, details)


Measured = tuple[list[Figure], dict[str, Any]]


# -- local disk ----------------------------------------------------------------------------------------


def local(options: Options, folder: Path) -> Measured:
    """Measure foreshard against MosaicML's `MDSWriter`, both from Parquet files to shards on a local disk."""
    peers.mosaic_writer()  # its import takes seconds, and is not what is measured
    rows, ratios = [], {}
    works = (
        (workloads.samples(2_000), workloads.tabular(20_000))
        if options.quick
        else (workloads.samples(40_000), workloads.tabular())
    )
    for work in works:
        seconds = harness.interleave(
            {"mds": partial(_mosaic_once, work, folder), "foreshard": partial(_local_once, work, folder)}
        )
        ratios[work.name] = harness.ratio(seconds["mds"], seconds["foreshard"])
        megabytes = sum(path.stat().st_size for path in work.files) / 1e6
        rows.append(
            (
                f"{work.name}: {work.snapshot.rows:,} rows, {megabytes:.0f} MB of Parquet",
                harness.spread(seconds["mds"]),
                harness.spread(seconds["foreshard"]),
                ratios[work.name],
            )
        )
    harness.print_table("local disk, seconds", ("workload", "MDSWriter", "foreshard", "speed-up"), rows)
    worst = min(each.median for each in ratios.values())
    details = {f"local_speedup_{name}": round(each.median, 3) for name, each in ratios.items()}
    return [Figure("local_speedup_vs_mds_writer", worst, 3.0, at_least=True)], details


def _mosaic_once(work: workloads.Workload, folder: Path) -> float:
    out = folder / "mds"
    began = time.perf_counter()
    peers.write_mds(work.files, work.order, out)
    took = time.perf_counter() - began
    shutil.rmtree(out)
    return took


def _local_once(work: workloads.Workload, folder: Path) -> float:
    out = folder / "foreshard"
    took = workloads.lay_out(work, ObjectStore.open(out.as_uri())).seconds
    shutil.rmtree(out)
    return took


# -- S3 ------------------------------------------------------------------------------------------------


def s3(options: Options, folder: Path) -> Measured:
    """Measure materialising to S3 servers against plain parallel puts of the very same objects."""
    del folder
    work = workloads.samples(2_000 if options.quick else 20_000)
    rows, fractions = [], {}
    for kind in harness.s3_kinds():
        with harness.s3_server(kind) as server:
            blobs = _shards_of(server, work)
            seconds = harness.interleave(
                {"raw": partial(_raw_once, server, blobs), "foreshard": partial(_s3_once, server, work)}
            )
        megabytes = sum(map(len, blobs)) / 1e6
        fractions[kind] = harness.ratio(seconds["raw"], seconds["foreshard"])
        raw, ours = ([megabytes / took for took in seconds[name]] for name in ("raw", "foreshard"))
        rows.append((f"{kind}: {megabytes:.0f} MB", harness.spread(raw, 0), harness.spread(ours, 0), fractions[kind]))
    harness.print_table("S3, MB/s", ("server", f"{_PUTS} parallel puts", "foreshard", "fraction"), rows)
    worst = min(each.median for each in fractions.values())
    details = {f"s3_fraction_{kind}": round(each.median, 3) for kind, each in fractions.items()}
    return [Figure("s3_fraction_of_raw_put", worst, 0.85, at_least=True)], details


def _shards_of(server: Any, work: workloads.Workload) -> list[bytes]:  # noqa: ANN401 - tests/servers.py's S3Server
    """Return the shard objects that foreshard puts for a workload."""
    bucket = server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}", endpoint=server.endpoint)
    made = workloads.lay_out(work, store).made
    blobs = [store.get(shard.key) for shard in made.manifest.shards]
    server.delete_bucket(bucket)
    return blobs


def _raw_once(server: Any, blobs: list[bytes]) -> float:  # noqa: ANN401 - tests/servers.py's S3Server
    bucket = server.create_bucket()
    store = S3Store(
        bucket,
        config={"region": "us-east-1", "endpoint": server.endpoint},
        client_options={"allow_http": True, "timeout": "300s"},
    )
    began = time.perf_counter()
    with ThreadPoolExecutor(_PUTS) as pool:
        puts = [
            pool.submit(obstore.put, store, f"raw/{number}", blob, use_multipart=False)
            for number, blob in enumerate(blobs)
        ]
        for put in puts:
            put.result()
    took = time.perf_counter() - began
    server.delete_bucket(bucket)
    return took


def _s3_once(server: Any, work: workloads.Workload) -> float:  # noqa: ANN401 - tests/servers.py's S3Server
    bucket = server.create_bucket()
    took = workloads.lay_out(work, ObjectStore.open(f"s3://{bucket}", endpoint=server.endpoint)).seconds
    server.delete_bucket(bucket)
    return took


# -- bytes, memory, opening ----------------------------------------------------------------------------


def incremental(options: Options, folder: Path) -> Measured:
    """Measure the bytes that a re-shard of 2 % of the chunks, scattered, adds to the store, over those that are new.

    All objects count that it leaves behind: shards, plan and manifest.
    """
    work = workloads.samples(2_000 if options.quick else 40_000)
    work = replace(work, chunk_rows=10) if options.quick else work
    out = folder / "incremental"
    store = ObjectStore.open(out.as_uri())
    parent = workloads.plan_for(work)
    workloads.lay_out(work, store, parent)
    before = {meta.key for meta in store.list("")}
    plan = workloads.successor(work, parent, _CHANGED)
    made = workloads.lay_out(work, store, plan).made
    added = {meta.key: meta.size for meta in store.list("") if meta.key not in before}
    known = set(parent.chunks.column("content_id").to_pylist())
    new = [name not in known for name in plan.chunks.column("content_id").to_pylist()]
    moved, written = int(made.manifest.nbytes[new].sum()), sum(added.values())
    shutil.rmtree(out)
    harness.print_table(
        "re-shard, MB",
        ("chunks", "new content", "shards written", "all written", "written / new"),
        [
            (
                f"{sum(new)} of {len(new)} are new",
                f"{moved / 1e6:.2f}",
                f"{made.written_bytes / 1e6:.2f}",
                f"{written / 1e6:.2f}",
                f"{written / moved:.3f}",
            )
        ],
    )
    details = {"incremental_shard_bytes_over_moved": round(made.written_bytes / moved, 4)}
    return [Figure("incremental_bytes_over_moved", written / moved, 1.10, at_least=False)], details


def memory(options: Options, folder: Path) -> Measured:
    """Measure the peak memory of a process that materialises 4 GB."""
    rows = 8_000 if options.quick else 160_000
    size = rows * workloads.SAMPLE_BYTES
    free = shutil.disk_usage(folder).free
    if free < _DISK_COPIES * size:
        sys.exit(f"{folder} has {free / 1e9:.1f} GB free and {_DISK_COPIES * size / 1e9:.1f} are needed; set TMPDIR")
    workloads.samples(rows)  # made here, so that the process does nothing but read it
    out = folder / "memory"
    fresh = harness.run_fresh("materialize_samples", rows, out.as_uri())
    shutil.rmtree(out)
    seconds = fresh.answer["seconds"]
    harness.print_table(
        "memory of a fresh process that materialises",
        ("data", "seconds", "MB/s", "peak RSS, MB"),
        [(f"{size / 1e9:.1f} GB", f"{seconds:.1f}", f"{size / 1e6 / seconds:.0f}", f"{fresh.peak_rss_mb:.0f}")],
    )
    return [Figure("peak_rss_mb", fresh.peak_rss_mb, 600.0, at_least=False)], {"peak_rss_data_gb": size / 1e9}


def opening(options: Options, folder: Path) -> Measured:
    """Measure what opening a committed layout of ten million chunks costs a fresh process."""
    chunks = 1_000_000 if options.quick else 10_000_000
    out = folder / "big"
    ref = harness.run_fresh("commit_big_layout", chunks, out.as_uri()).answer
    rounds = 1 if options.quick else harness.ROUNDS
    runs = [harness.run_fresh("open_layout", out.as_uri(), *ref) for _ in range(rounds)]
    ground = statistics.median(harness.run_fresh("import_only").peak_rss_mb for _ in range(rounds))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    seconds = [run.answer["seconds"] for run in runs]
    peaks = [run.peak_rss_mb for run in runs]
    growth = statistics.median(peaks) - ground
    harness.print_table(
        "opening a layout in a fresh process (its files are in the page cache)",
        ("layout", "seconds", "peak RSS, MB", "of that imports", "growth"),
        [
            (
                f"{chunks:,} chunks, {size / 1e6:.0f} MB",
                harness.spread(seconds),
                harness.spread(peaks, 0),
                f"{ground:.0f}",
                f"{growth:.0f}",
            )
        ],
    )
    figures = [
        Figure("open_10m_chunks_s", statistics.median(seconds), 2.0, at_least=False),
        Figure("open_10m_chunks_rss_mb", growth, 200.0, at_least=False),
    ]
    return figures, {"open_10m_chunks_peak_rss_mb": round(statistics.median(peaks), 1), "open_chunks": chunks}


if __name__ == "__main__":
    main()
