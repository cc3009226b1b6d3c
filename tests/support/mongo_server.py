"""SecantusDB as a stand-in for MongoDB: the same protocol, in this process, on a free port.

With a replica set's name it has transactions and change streams; without, it refuses both, as a
single MongoDB server does.
"""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from secantus import SecantusDBServer

MODES = {"replica set": "rs0", "single server": None}


@contextmanager
def mongo_server(folder: Path, mode: str) -> Generator[str]:
    """Run a server and yield its address."""
    server = SecantusDBServer(storage_path=str(folder), replica_set_name=MODES[mode])
    with server:
        yield server.uri
        # It waits two seconds for a thread that only another connection wakes.
        knock = threading.Timer(0.05, _knock, (server.host, server.port))
        knock.start()
    knock.join()


def _knock(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return


@pytest.fixture(scope="module", params=list(MODES))
def mongo_uri(request, tmp_path_factory):
    """Give the address of a server in each mode, one for all tests of a module."""
    with mongo_server(tmp_path_factory.mktemp("mongo"), request.param) as uri:
        yield uri
