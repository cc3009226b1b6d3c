"""The client's calls about the store as a whole: events, records, and retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson

from agentlightning.errors import StoreUnavailableError
from agentlightning.store.base import LightningStore, LightningStoreStatistics
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.transport import Transport
from agentlightning.store.http.wire import encode
from agentlightning.store.transfer import RecordPage
from agentlightning.types import StoreEvent
from agentlightning.types.event import StoreEventKind

if TYPE_CHECKING:
    from agentlightning.store.retention import RetentionPolicy, RetentionReport

__all__ = ["UpkeepCalls"]

LONG_WORK_SECONDS = 600.0
"""How much longer than a usual call one may take that goes through the whole store."""


class UpkeepCalls(LightningStore):
    """Part of the client; `_transport` is set by it."""

    _transport: Transport

    async def statistics(self) -> LightningStoreStatistics:
        return (await self._transport.request("GET", API_PREFIX + "/statistics")).json()

    async def last_event_seq(self) -> int:
        return (await self._transport.request("GET", API_PREFIX + "/events/last")).json()["seq"]

    async def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncGenerator[StoreEvent, None]:
        """Yield changes as they happen; see the base class.

        A lost connection is opened again behind the last event, so nothing is missed as long as
        the server keeps its history. The subscription begins with the first `anext`.

        Raises:
            StoreUnavailableError: The server stayed away for longer than the retry delays.
        """
        query: dict[str, Any] = {"kinds": list(kinds or ())}
        if metadata is not None:
            query["metadata"] = encode(metadata).decode()
        path = f"{API_PREFIX}/events?{urlencode(query, doseq=True)}"
        while True:
            headers = {} if since is None else {"last-event-id": str(since)}
            try:
                async with self._transport.stream(path, headers) as lines:
                    async for line in lines:
                        if line.startswith(b"id:"):
                            since = int(line[3:])
                        elif line.startswith(b"data:"):
                            yield StoreEvent.model_validate(orjson.loads(line[5:]))
            except StoreUnavailableError:
                # A GET is repeated as the configuration allows, until the server is back.
                since = await self._begin(since)
            else:
                # A server that ends the stream is closing, and may be on its way back.
                await asyncio.sleep(0.1)

    async def _begin(self, since: int | None) -> int | None:
        """Wait for the server, and return where to go on."""
        newest = await self.last_event_seq()
        return newest if since is None else since

    async def export_records(
        self, kind: str, *, after: str | None = None, limit: int = 1000
    ) -> RecordPage:
        raw = await self._ask("/records/export", {"kind": kind, "after": after, "limit": limit})
        return RecordPage(raw["kind"], raw["records"], raw["next"])

    async def import_records(self, kind: str, records: Sequence[str]) -> int:
        raw = await self._ask("/records/import", {"kind": kind, "records": records})
        return raw["changed"]

    async def mark_read(self, rollout_ids: Sequence[str]) -> int:
        return (await self._ask("/retention/read", {"rollout_ids": rollout_ids}))["marked"]

    async def apply_retention(
        self, policy: RetentionPolicy, *, dry_run: bool = False
    ) -> RetentionReport:
        from agentlightning.store.retention import RetentionReport

        raw = await self._ask("/retention/apply", {"policy": policy, "dry_run": dry_run})
        return RetentionReport.model_validate(raw)

    async def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self._transport.request(
            "POST", API_PREFIX + path, encode(body), extra_seconds=LONG_WORK_SECONDS
        )
        return answer.json()
