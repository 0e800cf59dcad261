"""Fixtures for all tests: stores on a local folder, in memory and on real S3 servers."""

import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from servers import FOREIGN_VARIABLES, GIVEN, NEUTRAL_VARIABLES, SERVERS, S3Server

from foreshard.storage import ObjectStore

# The same examples in every run, and no verdict from a clock that other work on the machine slows down.
settings.register_profile("foreshard", deadline=None, derandomize=True, database=None)
settings.load_profile("foreshard")

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

S3_KINDS = [pytest.param(kind, marks=pytest.mark.s3) for kind in SERVERS]


@dataclass(frozen=True)
class Location:
    """An empty place that outlives an `ObjectStore`: it can be opened again and again."""

    url: str
    endpoint: str | None = None

    def open(self) -> ObjectStore:
        return ObjectStore.open(self.url, endpoint=self.endpoint)


class _Servers:
    """Starts each kind of server when it is first asked for; one of a kind in a test session (or xdist worker)."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, tuple[S3Server, str]] = {}

    def get(self, kind: str) -> tuple[S3Server, str]:
        """Return the server and a bucket on it that tests share, each below a prefix of its own."""
        if kind not in self._running:
            server = self._stack.enter_context(SERVERS[kind]())
            bucket = server.create_bucket()
            if server is GIVEN:  # the others take their data with them
                self._stack.callback(server.delete_bucket, bucket)
            self._running[kind] = server, bucket
        return self._running[kind]


@pytest.fixture(scope="session")
def s3_servers() -> Iterator[_Servers]:
    """The servers of this session, by kind; for fixtures that outlive a test. Most tests want `s3_server`."""
    with ExitStack() as stack:
        yield _Servers(stack)


@pytest.fixture(scope="session", autouse=True)
def neutral_aws() -> Iterator[None]:
    """Keep the developer's own AWS settings, and a cloud's metadata service, out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN_VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in NEUTRAL_VARIABLES.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(params=S3_KINDS)
def s3_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, s3_servers: _Servers) -> S3Server:
    """Every kind of S3 server there is, its credentials in the environment; `create_bucket()` makes buckets."""
    return _enter(request.param, monkeypatch, s3_servers)[0]


@pytest.fixture
def seaweedfs_location(monkeypatch: pytest.MonkeyPatch, s3_servers: _Servers) -> Location:
    """An empty prefix on SeaweedFS alone, its credentials in the environment: for dear tests that need some S3."""
    return _s3_location("seaweedfs", monkeypatch, s3_servers)


@pytest.fixture(params=["local", *S3_KINDS])
def any_location(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_servers: _Servers
) -> Location:
    """An empty local folder, and an empty prefix on every kind of S3 server."""
    if request.param == "local":
        return Location((tmp_path / "a store").as_uri())
    return _s3_location(request.param, monkeypatch, s3_servers)


@pytest.fixture(params=["memory", "local", *S3_KINDS])
def any_store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_servers: _Servers
) -> ObjectStore:
    """An empty store: in memory, on a local folder, and on every kind of S3 server."""
    if request.param == "memory":
        return ObjectStore.open("memory://")
    if request.param == "local":
        return ObjectStore.open((tmp_path / "a store").as_uri())
    return _s3_location(request.param, monkeypatch, s3_servers).open()


def _enter(kind: str, monkeypatch: pytest.MonkeyPatch, servers: _Servers) -> tuple[S3Server, str]:
    server, bucket = servers.get(kind)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server, bucket


def _s3_location(kind: str, monkeypatch: pytest.MonkeyPatch, servers: _Servers) -> Location:
    server, bucket = _enter(kind, monkeypatch, servers)
    return Location(f"s3://{bucket}/{uuid.uuid4().hex}/a store", server.endpoint)
