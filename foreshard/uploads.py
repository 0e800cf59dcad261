"""Uploads that were begun and never finished: listed by no one, but kept and paid for until somebody removes them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from foreshard.errors import StorageError
from foreshard.local import LOCKS
from foreshard.retries import Timeouts
from foreshard.s3 import S3Address

# obstore writes a local object to a file of this name and renames it; it lists no such file.
_STAGING: Final = re.compile(r"(.+)#\d+", re.DOTALL)


@dataclass(frozen=True)
class Upload:
    """An unfinished upload.

    Attributes:
        key: the object that it was to become.
        upload_id: the server's name for it; in a local folder the name of the file that holds what was written.
        started: when it began, by the store's clock; in a local folder when it was last written to.
    """

    key: str
    upload_id: str
    started: datetime


def s3_uploads(address: S3Address, timeouts: Timeouts, prefix: str) -> list[Upload]:
    """Return the uploads in parts that are unfinished below a prefix of whole path segments, oldest first."""
    base = f"{address.prefix}/" if address.prefix else ""
    within = f"{base}{_segments(prefix)}"
    found: list[Upload] = []
    with address.plain_client(timeouts) as client:
        # MinIO lists only the uploads of one exact key, or else those of the whole bucket; AWS has large buckets.
        request: dict[str, str] = {"Bucket": address.bucket, "Prefix": "" if address.endpoint else within}
        while True:
            page: Any = client.list_multipart_uploads(**request)
            for entry in page.get("Uploads", []):
                key = str(entry["Key"])
                if key.startswith(within):
                    found.append(
                        Upload(key.removeprefix(base), str(entry["UploadId"]), entry["Initiated"].astimezone(UTC))
                    )
            following = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            if not page.get("IsTruncated") or not following["KeyMarker"]:
                break
            request.update({name: value for name, value in following.items() if value})
    return sorted(found, key=lambda upload: (upload.started, upload.key, upload.upload_id))


def abort_s3(address: S3Address, timeouts: Timeouts, upload: Upload) -> None:
    """Abort an upload in parts; one that is gone is passed over."""
    from botocore.exceptions import ClientError

    key = f"{address.prefix}/{upload.key}" if address.prefix else upload.key
    with address.plain_client(timeouts) as client:
        try:
            client.abort_multipart_upload(Bucket=address.bucket, Key=key, UploadId=upload.upload_id)
        except ClientError as error:
            answer: Any = error.response
            if answer.get("Error", {}).get("Code") not in {"NoSuchUpload", "404"}:
                raise


def local_uploads(root: Path, prefix: str) -> list[Upload]:
    """Return what killed writers left in a folder below a prefix of whole path segments, oldest first."""
    within = _segments(prefix)
    if ".." in within.split("/"):
        raise StorageError(f"the prefix {prefix!r} leads outside the store")
    found: list[Upload] = []
    for path in _files(root / within):
        name = path.relative_to(root).as_posix()
        staging = _STAGING.fullmatch(name)
        if staging is None or name.startswith(LOCKS):
            continue
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            continue  # its writer finished just now
        found.append(Upload(staging[1], path.name, datetime.fromtimestamp(written, UTC)))
    return sorted(found, key=lambda upload: (upload.started, upload.key, upload.upload_id))


def abort_local(root: Path, upload: Upload) -> None:
    """Remove the file of an unfinished upload; one that is gone is passed over.

    Raises:
        StorageError: it is not a file that an upload of this key leaves.
    """
    staging = _STAGING.fullmatch(upload.upload_id)
    folder, _, name = upload.key.rpartition("/")
    if staging is None or staging[1] != name or ".." in folder.split("/"):
        raise StorageError(f"{upload.upload_id!r} is no unfinished upload of {upload.key!r}; take it from uploads()")
    (root / folder.lstrip("/") / upload.upload_id).unlink(missing_ok=True)


def _segments(prefix: str) -> str:
    """The prefix with its slash, so that `runs/a` does not hold `runs/ab`; empty for everything."""
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        for name in names:
            yield Path(where) / name
