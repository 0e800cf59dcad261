"""Deadlines of requests to S3, and the retries that obstore does not make itself.

obstore repeats a request on 5xx answers and, where that is safe whatever the request means, on lost connections. A
conditional put, a delete, an upload in parts and a 400 are left: those are repeated here, where their meaning is known.
"""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final, TypeVar

from obstore import exceptions as ob

from foreshard.errors import ConfigError

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between attempts: they double from the first to the longest, and are shortened at random."""
OPENING: Final = 5.0
"""Seconds that the check when a store is opened may wait for its answer."""

# What may be gone on the next attempt: a connection that broke or stalled, a server that is busy, and bytes that were
# changed on their way, of an object (its checksum does not match) or of the XML around it.
_TRANSIENT: Final = re.compile(
    r"HTTP error|error sending request|timed out|[Cc]onnection (reset|closed|refused)|status code: (5\d\d|429)"
    r"|BadDigest|XAmzContentChecksumMismatch|XAmzContentSHA256Mismatch|IncompleteBody|RequestTimeout|SlowDown"
    r"|InternalError|ServiceUnavailable|ConditionalRequestConflict|OperationAborted"
    r"|NoSuchUpload|MalformedXML|InvalidPart|[Gg]ot invalid|Error getting"
)
_PERMANENT: Final = re.compile(r"NoSuchBucket|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId")
_REPEATED: Final = re.compile(r"after \d+ retries")


@dataclass(frozen=True)
class Timeouts:
    """How long S3 requests may take, in seconds.

    An operation is attempted again while `retry` seconds have not passed since it began, and at least once if its only
    request failed; the last attempt may take `request` seconds. See `deadline`.

    Attributes:
        connect: for a connection to open.
        read: silence within a read; then it is repeated on a new connection.
        write: silence within a write, listing or delete. An upload counts as silence until it is answered, so this must
            be enough for sending MULTIPART_BYTES and for the server to store them.
        request: for one request with its answer, however steadily it goes on.
        retry: after which no further attempt begins.
        retries: how often obstore repeats a request, and how often an operation is repeated beyond that.
    """

    connect: float = 3.0
    read: float = 10.0
    write: float = 60.0
    request: float = 300.0
    retry: float = 30.0
    retries: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "retries"):
                raise ConfigError(f"the timeout {field.name}={value} is not usable: give a number above 0")

    def for_opening(self) -> "Timeouts":
        """Return the deadlines of the check when a store is opened: one small request that tells within seconds."""
        short = min(OPENING, self.read, self.request)
        return replace(self, read=short, write=short, request=short, retry=min(OPENING, self.retry), retries=1)

    def deadline(self, requests: int = 1) -> float:
        """Return the seconds by which an operation has ended, with its effect or an error.

        Args:
            requests: how many requests it makes one after the other: 1, for a listing one per 1,000 objects, for an
                upload in parts two and one for each four parts.
        """
        return 2 * requests * (self.retry + LONGEST_PAUSE + self.request)


def is_transient(error: Exception) -> bool:
    """Whether what obstore reports may be gone on another attempt."""
    if isinstance(error, (ob.AlreadyExistsError, ob.PreconditionError)):
        return False
    text = str(error).split("\n\nDebug", maxsplit=1)[0]
    return _TRANSIENT.search(text) is not None and _PERMANENT.search(text) is None


def was_repeated(error: Exception) -> bool:
    """Whether obstore had sent the request before: then the first of them may have been carried out."""
    return _REPEATED.search(str(error)) is not None


def retrying(work: Callable[[], T], timeouts: Timeouts) -> T:
    """Call `work` until it succeeds, fails for good or the time for attempts is up; then its last error is raised."""
    start = time.monotonic()
    for attempt in range(timeouts.retries + 1):
        try:
            return work()
        except (ob.BaseError, OSError) as error:
            in_time = time.monotonic() - start < timeouts.retry
            if attempt == timeouts.retries or not is_transient(error):
                raise
            if not in_time and (attempt > 0 or was_repeated(error)):
                raise
        pause(attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def pause(attempt: int) -> None:
    """Wait before the attempt that follows number `attempt`, counted from 0."""
    time.sleep(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
