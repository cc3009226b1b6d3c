"""`LightningStoreClient`: a store that is somewhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.http.client_data import DataCalls
from agentlightning.store.http.client_upkeep import UpkeepCalls
from agentlightning.store.http.client_work import WorkCalls
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.transport import Transport, TransportConfig

__all__ = ["LightningStoreClient"]


class LightningStoreClient(WorkCalls, DataCalls, UpkeepCalls):
    """Talks to a `LightningStoreServer`; raises the same errors as the store behind it.

    One object may be used from any number of threads and event loops, and may be pickled into
    other processes. Calls that fail because the store is unavailable are made again after each
    of `retry_delays`; none of them can take effect twice while the server lives.

    Args:
        server_address: URL of the server, for instance `http://127.0.0.1:4747`.
        retry_delays: Seconds to pause before each repeat; empty for no repeats.
        health_retry_delays: Steps in which such a pause looks whether the server is back.
        request_timeout: Seconds that one request may take, besides the waiting asked for.
        connection_timeout: Seconds to establish a connection.
        outage_seconds: How long a call waits for a server that this client has reached before
            and that is away, for instance because it is restarted.
        token: The server's bearer token, if it has one.
        run_id: The run that the server must belong to, if it belongs to one.
        verify: Whom an `https` server may be: True for whoever the system (or `SSL_CERT_FILE`)
            trusts, the path of a PEM file or folder with the authorities to trust instead, or
            False for anybody, which protects from nobody who can change the traffic.
        endpoint: Another name of `server_address`.
        base_url: Another name of `server_address`.

    Raises:
        ConfigurationError: No address is given, it is no HTTP URL, or `verify` names no
            certificates.
    """

    def __init__(
        self,
        server_address: str | None = None,
        *,
        retry_delays: Sequence[float] = (1.0, 2.0, 5.0),
        health_retry_delays: Sequence[float] = (0.1, 0.2, 0.5),
        request_timeout: float = 30.0,
        connection_timeout: float = 5.0,
        outage_seconds: float = 60.0,
        token: str | None = None,
        run_id: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        endpoint: str | None = None,
        base_url: str | None = None,
    ) -> None:
        self._connect(
            TransportConfig(
                address=_checked_address(server_address or endpoint or base_url),
                retry_delays=tuple(retry_delays),
                health_retry_delays=tuple(health_retry_delays),
                request_timeout=request_timeout,
                connection_timeout=connection_timeout,
                outage_seconds=outage_seconds,
                token=token,
                run_id=run_id,
                verify=verify if isinstance(verify, bool) else os.fspath(verify),
            )
        )

    def _connect(self, config: TransportConfig) -> None:
        self._transport = Transport(config)
        self._in_outage = False

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._transport.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._connect(state["config"])

    def __repr__(self) -> str:
        return f"LightningStoreClient({self.server_address_root!r})"

    @property
    def server_address_root(self) -> str:
        """URL of the server."""
        return self._transport.config.address

    @property
    def server_address(self) -> str:
        """URL below which the API's routes are."""
        return self._transport.config.address + API_PREFIX

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=True
        )

    def otlp_traces_endpoint(self) -> str:
        return f"{self._transport.config.address}/v1/traces"

    async def is_healthy(self) -> bool:
        """Return whether the server answers, without trying twice."""
        return await self._transport.is_healthy()

    async def close(self) -> None:
        await self._transport.close()


def _checked_address(address: str | None) -> str:
    """Return the address without a path at its end."""
    if not address:
        raise ConfigurationError("Give the server's address, such as http://127.0.0.1:4747.")
    root = address.rstrip("/").removesuffix(API_PREFIX)
    parts = urlsplit(root)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(
            f"{address!r} is no address of a store: use a URL such as http://127.0.0.1:4747."
        )
    return root
