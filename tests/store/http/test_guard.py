"""Tests of the token, and of what pages of other sites may do."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from agentlightning.errors import ConflictError, UnauthorizedError
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.http.guard import tokens_match
from agentlightning.store.memory import InMemoryLightningStore

TOKEN = "correct horse é"


@pytest.fixture(scope="module")
def locked() -> Iterator[LightningStoreServer]:
    """A server that wants a token and lets one other site in."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(
        store, port=0, token=TOKEN, cors_allow_origins=["https://board.example"]
    )
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    asyncio.run(store.close())


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer correct horse"],
)
def test_without_the_token_nothing_is_told(locked: LightningStoreServer, header: str | None):
    """Every route but health refuses a request without the right token, also unknown ones."""
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/agl/statistics", "/v1/agl/nothing", "/v1/traces", "/openapi.json"):
        answer = httpx.post(locked.endpoint + path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(locked.endpoint + "/v1/agl/health").status_code == 200


async def test_the_client_sends_its_token():
    """A client with the token works, and one without is told what to do."""
    token = TOKEN
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0, token=token)
    await server.start()
    try:
        for given in (None, "other"):
            stranger = LightningStoreClient(server.endpoint, token=given)
            with pytest.raises(UnauthorizedError, match="token"):
                await stranger.enqueue_rollout(1)
            with pytest.raises(PermissionError):
                await stranger.dequeue_rollout()
            await stranger.close()
        friend = LightningStoreClient(server.endpoint, token=token)
        assert (await friend.enqueue_rollout(1)).input == 1
        await friend.close()
    finally:
        await server.stop()
        await store.close()


def test_tokens_of_any_text():
    """Comparing never fails, whatever the texts are."""
    assert tokens_match(TOKEN.encode(), TOKEN)
    assert not tokens_match(b"", TOKEN)
    assert not tokens_match(b"\xff", "e")


def test_pages_of_other_sites_may_not_call(server: LightningStoreServer):
    """A web page of another origin cannot write to a store on this machine."""
    url = server.endpoint + "/v1/agl/queues/rollouts/dequeue"
    foreign = httpx.post(url, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "forbidden_origin")
    own = httpx.post(url, headers={"origin": server.endpoint})
    assert own.status_code == 200


def test_allowed_pages_may(locked: LightningStoreServer):
    """An allowed origin passes the browser's preflight and the guard."""
    origin = {"origin": "https://board.example"}
    url = locked.endpoint + "/v1/agl/statistics"
    asked = {"access-control-request-method": "GET", **origin}
    preflight = httpx.options(url, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://board.example"
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert httpx.get(url, headers=origin).status_code == 401


def test_public_names_of_a_local_server_are_refused(
    server: LightningStoreServer, locked: LightningStoreServer
):
    """A page whose name was made to resolve to this machine gets nothing; other names do."""
    url = server.endpoint + "/v1/agl/statistics"
    for host in ("evil.example", "evil.example:4747", "127.0.0.1.evil.example"):
        answer = httpx.get(url, headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_host")
    for host in ("localhost:1", "127.0.0.1", "[::1]:80", "store", "a.localhost", "10.0.0.7:80", ""):
        assert httpx.get(url, headers={"host": host}).status_code == 200
    # With a token such a page cannot do anything, and the name may be that of a proxy.
    elsewhere = {"host": "store.example", "authorization": b"Bearer " + TOKEN.encode()}
    assert httpx.get(locked.endpoint + "/v1/agl/statistics", headers=elsewhere).status_code == 200


async def test_clients_of_another_run_are_refused():
    """A server of one run tells clients of another that they are wrong here."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0, run_id="run-1")
    await server.start()
    try:
        for run_id in ("run-1", None):
            client = LightningStoreClient(server.endpoint, run_id=run_id)
            assert (await client.enqueue_rollout(1)).input == 1
            await client.close()
        stray = LightningStoreClient(server.endpoint, run_id="run-2")
        with pytest.raises(ConflictError, match="'run-1', not to 'run-2'"):
            await stray.enqueue_rollout(1)
        await stray.close()
        answer = httpx.get(
            server.endpoint + "/v1/agl/statistics", headers={"x-agl-run-id": "run-2"}
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "wrong_run")
    finally:
        await server.stop()
        await store.close()
