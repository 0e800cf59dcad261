"""The servers of the tests themselves: alone on their ports, and gone with whoever started them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import servers

from foreshard.storage import ObjectStore

# Starts a program as the servers are started, prints its process id, and waits to be killed.
PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import servers
child = servers.start_bound(["/bin/sleep", "300"])
print(child.pid, flush=True)
time.sleep(300)
"""


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def test_a_server_dies_when_its_starter_is_killed():
    folder = str(Path(servers.__file__).parent)
    with subprocess.Popen([sys.executable, "-c", PARENT, folder], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}/exe").resolve().name == Path(sys.executable).resolve().name:
            assert time.monotonic() < deadline, "the program never took over its process"
            time.sleep(0.02)
        assert _state(child) in {"S", "R"}
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)
        while _state(child) not in {"gone", "Z"}:
            assert time.monotonic() < deadline, "the program outlived its starter"
            time.sleep(0.02)


def test_ports_are_claimed_by_one_at_a_time_and_free_to_listen_on():
    with servers.claimed_ports(5) as mine, servers.claimed_ports(5) as others:
        assert len({*mine, *others}) == 10
        for port in mine:
            with socket.create_server(("127.0.0.1", port)):
                pass


def test_a_server_opens_only_to_its_own_credentials_and_makes_buckets(s3_server):
    first, second = s3_server.create_bucket(), s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{first}", endpoint=s3_server.endpoint)
    store.put("a", b"x")
    assert list(ObjectStore.open(f"s3://{second}", endpoint=s3_server.endpoint).list("")) == []
    s3_server.delete_bucket(first)
    s3_server.delete_bucket(second)
    with s3_server.client() as client:
        assert {first, second}.isdisjoint(entry["Name"] for entry in client.list_buckets()["Buckets"])
