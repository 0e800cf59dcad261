"""How an S3 bucket is reached: credentials, integrity, and the clients (obstore for bytes, s3fs for tables).

Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or else from the standard AWS chain as botocore
resolves it (profiles, SSO, web identity, container and instance roles). They are never part of a URL, stored or logged.
"""

import logging
import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from obstore.store import S3Store

from foreshard.errors import AccessDeniedError, ConfigError
from foreshard.retries import FIRST_PAUSE, LONGEST_PAUSE, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import S3Config, S3Credential
    from pyarrow.fs import FileSystem

_TALKATIVE: Final = ("auth", "client", "endpoint", "hooks", "httpsession", "parsers", "retryhandler", "awsrequest")
_CREDENTIAL_LIFE: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class S3Address:
    """Where a bucket is.

    Attributes:
        bucket: its name.
        prefix: what every key starts with, without slashes at the ends; empty for none.
        endpoint: the server's URL where it is not AWS.
        region: the region requests are signed for.
    """

    bucket: str
    prefix: str
    endpoint: str | None
    region: str

    @classmethod
    def resolve(cls, bucket: str, prefix: str, endpoint: str | None, region: str) -> "S3Address":
        """Fill in what the environment says: AWS_ENDPOINT_URL where `endpoint` is None, AWS_REGION before `region`.

        Raises:
            ConfigError: the endpoint is not an http(s) URL.
        """
        env = os.environ
        endpoint = endpoint or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"S3 endpoint {endpoint!r} is not usable: give its URL, like http://127.0.0.1:9000")
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or region
        return cls(bucket, prefix.strip("/"), endpoint, region)

    @property
    def plain_http(self) -> bool:
        """Whether the server is reached over HTTP without TLS, and by no proxy."""
        host = urlsplit(self.endpoint or "").hostname
        if host is None or not (self.endpoint or "").startswith("http://"):
            return False
        return "http" not in getproxies() or bool(proxy_bypass(host))

    def connect(self, timeouts: Timeouts, *, patient: bool = False) -> S3Store:
        """Return an obstore client.

        Args:
            timeouts: the deadlines of its requests.
            patient: wait as long as a write may be silent instead of a read.

        Raises:
            AccessDeniedError: there are no credentials.
        """
        config: S3Config = {
            "region": self.region,
            # SeaweedFS stores an upload that was damaged on its way although the payload is signed, and refuses it only
            # by a checksum; MinIO checks both. So the checksum is sent, and the payload's digest left out of the
            # signature, which would only be a second SHA-256 of the same bytes.
            "checksum_algorithm": "sha256",
            "unsigned_payload": True,
            # Neither server checks the body of a bulk delete: one wrong bit in it deletes another object. The key of a
            # single delete is part of the signed URL.
            "disable_bulk_delete": True,
        }
        if self.endpoint:
            config["endpoint"] = self.endpoint
        return S3Store(
            self.bucket,
            prefix=self.prefix or None,
            config=config,
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=timeouts.connect),
                "read_timeout": timedelta(seconds=timeouts.write if patient else timeouts.read),
                "timeout": timedelta(seconds=timeouts.request),
            },
            retry_config={
                "max_retries": timeouts.retries,
                "retry_timeout": timedelta(seconds=timeouts.retry),
                "backoff": {
                    "init_backoff": timedelta(seconds=FIRST_PAUSE),
                    "max_backoff": timedelta(seconds=LONGEST_PAUSE),
                    "base": 2,
                },
            },
            credential_provider=_credential_provider(),
        )

    def filesystem(self, timeouts: Timeouts) -> "FileSystem":
        """Return a pyarrow filesystem over s3fs; paths in it start with the bucket.

        Nothing is cached between calls: s3fs would share clients of other credentials and serve stale listings.
        """
        import s3fs
        from pyarrow import fs

        _silence_tokens()

        remote = s3fs.S3FileSystem(
            anon=_unsigned(),
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.region},
            config_kwargs={"connect_timeout": timeouts.connect, "read_timeout": timeouts.write},
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        handler: Any = fs.FSSpecHandler  # its stub misses methods, so it looks abstract
        return fs.PyFileSystem(handler(remote))

    @contextmanager
    def plain_client(self, timeouts: Timeouts) -> Generator[Any]:
        """Open a botocore client, for requests that obstore does not make.

        Raises:
            AccessDeniedError: there are no credentials.
            OSError: a request failed; its text is like that of obstore's errors, for `translated`.
        """
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        config: Any = Config(
            connect_timeout=timeouts.connect,
            read_timeout=timeouts.write,
            retries={"mode": "standard", "total_max_attempts": timeouts.retries + 1},
            s3={"addressing_style": "path"},
            signature_version=UNSIGNED if _unsigned() else None,
        )
        _silence_tokens()
        _credential_provider()  # tells what to do if there are none
        session: Any = Session()
        client = session.create_client("s3", endpoint_url=self.endpoint, region_name=self.region, config=config)
        with closing(client):
            try:
                yield client
            except ClientError as error:
                answer: Any = error.response
                told = answer.get("Error", {})
                raise OSError(f"<Code>{told.get('Code')}</Code><Message>{told.get('Message')}</Message>") from error
            except BotoCoreError as error:
                raise OSError(f"error sending request: {error}") from error


def _without_token(record: logging.LogRecord) -> bool:
    return "security-token" not in record.getMessage().lower()


def _silence_tokens() -> None:
    """Keep session tokens out of botocore's DEBUG logs: it writes the headers of requests there as they are sent."""
    for package in ("botocore", "aiobotocore"):
        for module in _TALKATIVE:
            logging.getLogger(f"{package}.{module}").addFilter(_without_token)


def _unsigned() -> bool:
    return os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in {"1", "true"}


def _credential_provider() -> "Callable[[], S3Credential] | None":
    """Return what fetches credentials from the AWS chain, or None where obstore finds them in the environment."""
    env = os.environ
    if _unsigned() or (env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY")):
        return None
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in AWS_PROFILE"
    try:
        session: Any = Session()
        chain: Any = session.get_credentials()
    except BotoCoreError as error:
        raise AccessDeniedError(f"AWS credentials cannot be read ({error}); {fix}") from error
    if chain is None:
        raise AccessDeniedError(f"there are no AWS credentials in the environment or the AWS configuration; {fix}")

    def current() -> "S3Credential":
        frozen = chain.get_frozen_credentials()  # renewed by botocore well before they expire
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIAL_LIFE,
        }

    return current
