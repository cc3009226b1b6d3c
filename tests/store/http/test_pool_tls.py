"""Tests of clients of an HTTPS server whose certificate a private authority signed."""

import asyncio
import pickle
import subprocess
from pathlib import Path

import pytest
import uvicorn

from agentlightning._internal.serving import bind_socket
from agentlightning.errors import ConfigurationError, StoreUnavailableError
from agentlightning.store import open_store
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.http.app import StoreApp
from agentlightning.store.memory import InMemoryLightningStore


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (`ca.pem`) and what it signed for 127.0.0.1 (`site.pem`)."""
    folder = tmp_path_factory.mktemp("tls")
    _openssl(folder, "req", "-x509", *_key("ca.key"), "-out", "ca.pem", "-subj", "/CN=private")
    _openssl(folder, "req", *_key("site.key"), "-out", "site.csr", "-subj", "/CN=store")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["x509", "-req", "-in", "site.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]
    _openssl(folder, *signed, "-CAcreateserial", "-extfile", "names", "-out", "site.pem")
    return folder


@pytest.fixture
async def address(certificates: Path):
    """An HTTPS server over a memory store."""
    store = InMemoryLightningStore(thread_safe=True)
    listener = bind_socket("127.0.0.1", 0)
    config = uvicorn.Config(
        StoreApp(store),
        log_config=None,
        ssl_certfile=str(certificates / "site.pem"),
        ssl_keyfile=str(certificates / "site.key"),
    )
    server = uvicorn.Server(config)
    server.capture_signals = _nothing  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task
    await store.close()


def _nothing():
    import contextlib

    return contextlib.nullcontext()


async def test_the_authority_is_named(address: str, certificates: Path):
    """A client that is given the authority's certificate works, also as a copy and by URL."""
    client = LightningStoreClient(address, verify=certificates / "ca.pem")
    opened = open_store(address, verify=str(certificates / "ca.pem"))
    copy = pickle.loads(pickle.dumps(client))
    for store in (client, opened, copy):
        rollout = await store.enqueue_rollout("over TLS")
        assert (await store.get_rollout_by_id(rollout.rollout_id)) == rollout
        await store.close()


async def test_a_stranger_is_refused(address: str):
    """Without the authority the certificate is refused, and the message says so."""
    client = LightningStoreClient(address, retry_delays=())
    with pytest.raises(StoreUnavailableError, match="certificate"):
        await client.statistics()
    await client.close()


async def test_verification_can_be_turned_off(address: str):
    """`verify=False` takes any certificate."""
    client = LightningStoreClient(address, verify=False)
    assert await client.is_healthy()
    await client.close()


def test_no_certificates(tmp_path: Path):
    """A path without certificates is refused at once."""
    with pytest.raises(ConfigurationError, match="No certificates"):
        LightningStoreClient("https://127.0.0.1", verify=tmp_path / "missing.pem")
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match="No certificates"):
        LightningStoreClient("https://127.0.0.1", verify=tmp_path / "empty.pem")
