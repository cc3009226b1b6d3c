"""The server under a gateway, and serving in the caller's loop."""

import asyncio
import signal
import threading

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import Span
from tests.gateway.running import HELLO, Running
from tests.support.model_server import ModelServer


class OneThread(InMemoryLightningStore):
    """Notes which threads it is used from."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    async def add_span(self, span: Span) -> Span | None:
        self.threads.add(threading.get_ident())
        return await super().add_span(span)


async def test_a_gateway_in_the_callers_loop_uses_the_store_there(server: ModelServer) -> None:
    """Calls are served and recorded in the loop that started it; signals stay the program's."""
    store = OneThread()
    rollout = await store.start_rollout(input=1)
    route = ModelRoute(upstream=HttpUpstream(server.endpoint), model="m")
    gateway = Gateway(store, models={"m": route})
    before = signal.getsignal(signal.SIGINT)
    await gateway.start_here()
    await gateway.start_here()
    assert signal.getsignal(signal.SIGINT) is before
    assert gateway.is_running
    run = Running(gateway, store, server, rollout.rollout_id, rollout.attempt.attempt_id)
    async with run.client() as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "hello"
    assert store.threads == {threading.get_ident()}
    await gateway.pause()
    assert await gateway.drain(1.0)
    gateway.resume()
    url = gateway.url
    await gateway.stop()
    await gateway.stop()
    assert not gateway.is_running
    await gateway.start()
    assert gateway.url == url
    await gateway.stop()
    await store.close()


async def test_it_can_be_stopped_from_another_loop(server: ModelServer) -> None:
    """Whoever stops it need not run the loop that serves."""
    gateway = Gateway(InMemoryLightningStore(), models={})
    await gateway.start_here()
    await asyncio.to_thread(lambda: asyncio.run(gateway.stop()))
    assert not gateway.is_running


async def test_a_taken_address_is_told(server: ModelServer) -> None:
    """A start that fails leaves nothing behind, in the loop as in a thread."""
    port = int(server.url.rpartition(":")[2])
    gateway = Gateway(InMemoryLightningStore(), models={}, port=port)
    with pytest.raises(ConfigurationError, match="Cannot bind"):
        await gateway.start_here()
    assert not gateway.is_running
