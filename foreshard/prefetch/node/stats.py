"""What a node's cache did for one process."""

from dataclasses import dataclass


@dataclass
class NodeStats:
    """Counters of one `NodeCache` since it was made; other processes' are their own.

    Attributes:
        disk_hits: chunks read from the cache's files and found right.
        disk_hit_bytes: their bytes.
        published: chunks written for others.
        awaited: chunks that another process or thread was fetching, so that this one waited.
        overdue: of those, chunks that did not come in time and were fetched here too.
        stolen: fetches taken over from a participant that died or took too long.
        evicted: files removed to make room.
        damaged: files that were missing, short or did not verify, and were fetched again.
        bypassed: chunks fetched without the cache, for lack of room or while it was paused.
        write_failures: chunks that could not be written, as the disk was full or failed.
        troubles: times the cache itself could not be used (its lock or folder), and was left alone for a while.
        last_trouble: what was wrong the last time, of the two above.
    """

    disk_hits: int = 0
    disk_hit_bytes: int = 0
    published: int = 0
    awaited: int = 0
    overdue: int = 0
    stolen: int = 0
    evicted: int = 0
    damaged: int = 0
    bypassed: int = 0
    write_failures: int = 0
    troubles: int = 0
    last_trouble: str = ""
