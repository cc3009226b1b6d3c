"""Tests of repeated requests: a lossy network between client and server changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest
from tests.store.http.conftest import make_span

QUICK = (0.01, 0.01, 0.01)


class Lossy:
    """A proxy that forwards requests and loses the first answers to them."""

    def __init__(self, target: str) -> None:
        self.host, port = target.removeprefix("http://").split(":")
        self.port = int(port)
        self.losses = 0
        self.lost = 0
        self.subscribed = asyncio.Event()
        """Set once a stream of events has begun."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self.host, self.port)
        forward = asyncio.create_task(self._copy(reader, up_writer))
        try:
            while data := await up_reader.read(65536):
                if self.losses > 0:
                    self.losses -= 1
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
                if b": ready" in data:
                    self.subscribed.set()
        finally:
            forward.cancel()
            await asyncio.gather(forward, return_exceptions=True)
            for end in (writer, up_writer):
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def lossy_network(
    server: LightningStoreServer,
) -> AsyncIterator[tuple[Lossy, LightningStoreClient]]:
    proxy = Lossy(server.endpoint)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = LightningStoreClient(
        f"http://127.0.0.1:{port}", retry_delays=QUICK, health_retry_delays=()
    )
    try:
        yield proxy, client
    finally:
        await client.close()
        listening.close()
        await asyncio.sleep(0.02)


async def test_writes_take_effect_once(server: LightningStoreServer, claim: AttemptedRollout):
    """Each write whose answer is lost is repeated, and has happened once."""
    rollout_id = claim.rollout_id
    async with lossy_network(server) as (proxy, client):
        before = await server.statistics()

        async def lossily(call):
            proxy.losses = 2
            return await call

        started = await lossily(client.start_rollout("once"))
        await lossily(client.enqueue_many_rollouts([EnqueueRolloutRequest(input="q")]))
        again = await lossily(client.start_attempt(started.rollout_id))
        assert again.attempt.sequence_id == 2
        stored = await lossily(client.add_many_spans([make_span(claim), make_span(claim)]))
        assert [span.sequence_id for span in stored] == [1, 2]
        assert await lossily(client.get_next_span_sequence_id(rollout_id, "x")) == 3
        resources = await lossily(client.update_resources("rs-once", {}))
        assert resources.version == 1
        await lossily(client.finish_rollout(rollout_id, reward=1.0))
        assert len(await server.query_spans(rollout_id)) == 3
        after = await server.statistics()
        assert after["total_rollouts"] - before["total_rollouts"] == 2
        assert proxy.lost == 14


async def test_a_claim_whose_answer_is_lost_is_not(server: LightningStoreServer):
    """A claim is repeated under its key and gets the same rollout, not another one."""
    while await server.dequeue_rollout():
        pass
    async with lossy_network(server) as (proxy, client):
        first = await client.enqueue_rollout("first")
        await client.enqueue_rollout("second")
        proxy.losses = 2
        claim = await client.dequeue_rollout("w-lossy")
        assert claim is not None
        assert (claim.rollout_id, claim.attempt.sequence_id) == (first.rollout_id, 1)
        proxy.losses = 1
        second = await client.dequeue_rollout("w-lossy", wait_seconds=5)
        assert second is not None
        assert second.input == "second"
        assert await client.dequeue_rollout("w-lossy") is None


async def test_patience_ends(server: LightningStoreServer):
    """A call gives up after its last repeat, and does not repeat what the store refused."""
    async with lossy_network(server) as (proxy, client):
        proxy.losses = 100
        with pytest.raises(StoreUnavailableError):
            await client.start_rollout("never")
        assert proxy.lost == 1 + len(QUICK)
        proxy.losses = 0
        with pytest.raises(ValueError, match="ro-none"):
            await client.update_rollout("ro-none", mode="val")


async def test_clients_outlive_a_restart_of_the_server():
    """Calls made while the server is away succeed once it is back on the same port."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0)
    await server.start()
    port = int(server.endpoint.rsplit(":", 1)[1])
    client = LightningStoreClient(server.endpoint)
    try:
        await client.enqueue_rollout("before")
        claiming = [asyncio.create_task(client.dequeue_rollout(wait_seconds=20)) for _ in range(2)]
        following = client.subscribe(since=0)
        assert (await anext(following)).seq > 0
        await asyncio.sleep(0.1)
        await server.stop()
        enqueueing = asyncio.create_task(client.enqueue_rollout("during"))
        await asyncio.sleep(0.3)
        assert not enqueueing.done()
        server = LightningStoreServer(store, port=port)
        await server.start()
        rollout = await asyncio.wait_for(enqueueing, 10)
        claimed = await asyncio.wait_for(asyncio.gather(*claiming), 10)
        assert {c.input for c in claimed if c is not None} == {"before", "during"}
        async with asyncio.timeout(10):
            async for event in following:
                if event.rollout_id == rollout.rollout_id:
                    break
        await following.aclose()
    finally:
        await client.close()
        await server.stop()
        await store.close()


async def test_a_stream_that_breaks_before_its_first_event_misses_nothing(
    server: LightningStoreServer,
):
    """A subscriber knows where it began, and goes on from there after its connection broke."""
    async with lossy_network(server) as (proxy, client):
        following = client.subscribe(kinds=["rollout_created"])
        coming = asyncio.create_task(anext(following))
        await asyncio.wait_for(proxy.subscribed.wait(), 20)
        await asyncio.sleep(0.2)
        proxy.losses = 1
        missed = await server.start_rollout("while nobody listened")
        event = await asyncio.wait_for(coming, 10)
        assert proxy.lost == 1
        assert event.rollout_id == missed.rollout_id
        await following.aclose()


@asynccontextmanager
async def answering(*parts: bytes, requests: int = 1) -> AsyncIterator[LightningStoreClient]:
    """Give a client of a server that sends these bytes and closes after so many requests."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(requests):
            if not await reader.read(65536):
                break
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.005)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = LightningStoreClient(
        f"http://127.0.0.1:{port}", retry_delays=(), health_retry_delays=(), request_timeout=5
    )
    try:
        yield client
    finally:
        await client.close()
        listening.close()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n[1,2",
        b"",
    ],
)
async def test_what_is_no_answer_is_no_store(answer: bytes):
    """Wrong and cut answers are an unavailable store, for calls and for subscriptions."""
    async with answering(answer) as client:
        with pytest.raises(StoreUnavailableError):
            await client.start_rollout(1)
        with pytest.raises(StoreUnavailableError):
            await anext(client.subscribe())
        assert not await client.is_healthy()


async def test_answers_in_pieces():
    """An answer that comes byte by byte, or ends with its connection, is whole."""
    whole = b'HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{"name": "pieces"}'
    async with answering(*(whole[at : at + 7] for at in range(0, len(whole), 7))) as client:
        for _ in range(2):
            assert (await client.statistics())["name"] == "pieces"


async def test_connections_that_the_server_closed_are_not_noticed():
    """A write over a connection that the server closes at that moment goes over a new one."""
    arrived = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        for number in range(2):
            if not await reader.read(65536):
                break
            arrived += 1
            if number == 0:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n" + b'{"sequence_id":7}'
                )
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = LightningStoreClient(f"http://127.0.0.1:{port}", retry_delays=())
    for _ in range(4):
        assert await client.get_next_span_sequence_id("ro", "at") == 7
    # The first has its connection; each other is lost once on the old one, and told anew.
    assert arrived == 7
    await client.close()
    listening.close()
    await asyncio.sleep(0.02)


async def test_large_bodies(server: LightningStoreServer, claim: AttemptedRollout):
    """Bodies of some megabytes go and come as they are."""
    async with lossy_network(server) as (proxy, client):
        proxy.losses = 1
        text = "x" * 3_000_000
        await client.add_many_spans([make_span(claim, attributes={"text": text})])
        (span,) = await client.query_spans(claim.rollout_id)
        assert span.attributes["text"] == text


async def test_long_lines_of_a_stream(server: LightningStoreServer):
    """An event of several megabytes is one event."""
    async with lossy_network(server) as (proxy, client):
        following = client.subscribe(kinds=["rollout_created"], metadata={"large": True})
        coming = asyncio.create_task(anext(following))
        await asyncio.wait_for(proxy.subscribed.wait(), 20)
        made = await server.start_rollout(1, metadata={"large": True, "text": "x" * 3_000_000})
        assert (await asyncio.wait_for(coming, 10)).rollout_id == made.rollout_id
        await following.aclose()
