"""What the chaos tests set up: a store's server that can be killed, a gateway, a model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentlightning._internal.clock import monotonic
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.client_server import LightningStoreClient
from tests.chaos.workload import patient_client
from tests.support.model_server import Answer, ModelServer
from tests.support.ports import free_port


class StoreProcess:
    """`agl store` in a process of its own, always at the same address and with the same data."""

    def __init__(self, url: str, folder: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.starts = 0
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        options = ["--url", self._url, "--port", str(self.port), "--log-level", "WARNING"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agentlightning.cli", "store", *options],
                stdout=log,
                stderr=log,
            )

    async def wait_ready(self, seconds: float = 60.0) -> None:
        client = LightningStoreClient(
            self.address, retry_delays=(1.0,) * 60, health_retry_delays=(0.05,)
        )
        deadline = monotonic() + seconds
        try:
            while not await client.is_healthy():
                assert monotonic() < deadline, self.log.read_text()
        finally:
            await client.close()

    def kill(self) -> None:
        """End it as a crash would; idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def reply(request: dict[str, Any]) -> Answer:
    return Answer(text=f"re: {request['messages'][0]['content']}")


@asynccontextmanager
async def gateway_to(model: ModelServer, address: str) -> AsyncIterator[Gateway]:
    """Run a gateway in front of a model server, which records into the store's server."""
    client = patient_client(address)
    route = ModelRoute(upstream=HttpUpstream(model.endpoint), model="real-m")
    gateway = Gateway(client, models={"m": route})
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
        await client.close()
