"""Database servers that the tests of several modules share, each test with a store of its own."""

import gc
import warnings
from contextlib import ExitStack

import pytest

from tests.support.mongo_server import MODES, mongo_server
from tests.support.postgres import PostgresProcess


@pytest.fixture(scope="session")
def postgres():
    process = PostgresProcess()
    yield process
    process.close()


@pytest.fixture(scope="session")
def mongo_servers(tmp_path_factory):
    """Give the address of a server in the mode that is asked for."""
    started: dict[str, str] = {}
    with ExitStack() as stack:

        def server(mode: str) -> str:
            if mode not in started:
                folder = tmp_path_factory.mktemp("mongo")
                started[mode] = stack.enter_context(mongo_server(folder, mode))
            return started[mode]

        yield server


@pytest.fixture(scope="module", params=MODES)
def mongo_uri(request, mongo_servers):
    """Give the address of a server in each mode."""
    yield mongo_servers(request.param)
    # pymongo leaves the socket of a connection open that was cancelled while it was being made;
    # found here, it does not fail some later test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
