"""What obstore reports -> foreshard's exceptions, each naming the object, the store, the endpoint and the fix."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from obstore import exceptions as ob

from foreshard.errors import (
    AccessDeniedError,
    ConflictError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    UnreachableError,
)
from foreshard.s3 import S3Address

# Only some requests get an exception of their own from obstore; a refused listing is told by its text alone.
_DENIED: Final = re.compile(
    r"status code: 40[13]\b|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId|Read-only file system"
)
_NETWORK: Final = ("error sending request", "Connect", "timed out", "HTTP error")


@contextmanager
def translated(key: str, url: str, s3: S3Address | None) -> Generator[None]:
    """Turn errors of obstore and the operating system into foreshard's.

    Args:
        key: the object that the block works on, for the message.
        url: the store's URL.
        s3: the bucket's address; None for a local folder or memory.
    """
    where = f"{key!r} in {url}" + (f" at {s3.endpoint}" if s3 and s3.endpoint else "")
    try:
        yield
    except ob.AlreadyExistsError as error:
        raise ObjectExistsError(f"{where} exists already with other content") from error
    except ob.PreconditionError as error:
        raise ConflictError(f"{where} was replaced by someone else meanwhile; read it again") from error
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(url, s3) from error
        raise ObjectNotFoundError(f"there is no object {where}") from error
    except (ob.PermissionDeniedError, ob.UnauthenticatedError, PermissionError) as error:
        raise _denied(where, s3, str(error)) from error
    except ValueError as error:
        if "parse path" not in str(error):
            raise
        raise StorageError(f"{key!r} is no key for an object in {url}: {_reason(str(error))}") from error
    except (ob.BaseError, OSError) as error:
        text = str(error)
        if "NoSuchBucket" in text:
            raise _no_bucket(url, s3) from error
        if _DENIED.search(text):
            raise _denied(where, s3, text) from error
        if s3 is not None and any(sign in text for sign in _NETWORK):
            raise UnreachableError(
                f"{where} cannot be reached ({_reason(text)}); check that the endpoint is right and its server runs"
            ) from error
        raise StorageError(f"{where}: {_reason(text)}") from error


def _no_bucket(url: str, s3: S3Address | None) -> UnreachableError:
    return UnreachableError(f"the bucket of {url} does not exist at {(s3 and s3.endpoint) or 'AWS'}; create it first")


def _denied(where: str, s3: S3Address | None, text: str) -> AccessDeniedError:
    check = (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        if s3 is not None
        else "the folder's owner and permissions"
    )
    return AccessDeniedError(f"access to {where} was denied ({_reason(text)}); check {check}")


def _reason(text: str) -> str:
    """Shorten a message to what a user can act on: the server's code and sentence, or obstore's first paragraph."""
    code, message = re.search(r"<Code>([^<]*)", text), re.search(r"<Message>([^<]*)", text)
    if code:
        return f"{code[1]}: {message[1]}" if message else code[1]
    return text.split("\n\nDebug", maxsplit=1)[0].strip()
