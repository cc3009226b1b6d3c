"""Sending the spans of a store to any backend that takes OTLP over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from agentlightning._internal.clock import monotonic
from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.utils.otlp_encode import encode_spans

if TYPE_CHECKING:
    import aiohttp

    from agentlightning.store.base import LightningStore
    from agentlightning.types.tracer import Span

__all__ = ["OtlpExportReport", "export_otlp"]

logger = logging.getLogger(__name__)

PROTOBUF_TYPE: Final = "application/x-protobuf"
TRACES_PATH: Final = "/v1/traces"
RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""Statuses that the OTLP specification calls retryable."""
ROLLOUTS_PER_PAGE: Final = 200
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
MAX_MESSAGES: Final = 20


@dataclass(slots=True)
class OtlpExportReport:
    """What an export did."""

    rollouts: int = 0
    """Rollouts that had spans."""
    spans: int = 0
    """Spans that the backend accepted."""
    rejected: int = 0
    """Spans that it refused for good."""
    messages: list[str] = field(default_factory=list[str])
    """What it said about that, or warned of; the first twenty."""


async def export_otlp(
    store: LightningStore,
    endpoint: str,
    *,
    rollout_ids: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    batch_size: int = 512,
    request_timeout: float = 30.0,
    outage_seconds: float = 120.0,
    on_progress: Callable[[OtlpExportReport], None] | None = None,
) -> OtlpExportReport:
    """Send the spans of a store, or of some of its rollouts, to another backend.

    Sent again, spans keep their trace and span ids, so backends that know them by these store
    them once. What the backend cannot take at the moment is sent again with growing pauses.

    Args:
        store: Where the spans are.
        endpoint: The backend's OTLP/HTTP address; without a path, `/v1/traces` is added.
        rollout_ids: Which rollouts; None is all of them, oldest first.
        headers: Added to each request, for instance an API key.
        batch_size: Spans per request.
        request_timeout: Seconds for one request.
        outage_seconds: How long a backend that fails is tried again.
        on_progress: Called after each request.

    Raises:
        ConfigurationError: The endpoint is no HTTP URL.
        StoreError: The backend cannot be reached, or refuses the requests.
    """
    import aiohttp

    sender = _Sender(_traces_url(endpoint), dict(headers or {}), outage_seconds)
    report = OtlpExportReport()
    timeout = aiohttp.ClientTimeout(total=request_timeout)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        async for batch in _batches(store, rollout_ids, batch_size, report):
            await sender.send(session, batch, report)
            if on_progress is not None:
                on_progress(report)
    return report


def _traces_url(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(
            f"{endpoint!r} is no OTLP address: use a URL such as http://localhost:4318."
        )
    return urlunsplit(parts._replace(path=TRACES_PATH)) if parts.path in ("", "/") else endpoint


async def _batches(
    store: LightningStore, rollout_ids: Sequence[str] | None, size: int, report: OtlpExportReport
) -> AsyncGenerator[list[Span], None]:
    waiting: list[Span] = []
    async for rollout_id in _rollout_ids(store, rollout_ids):
        spans = await store.query_spans(rollout_id)
        report.rollouts += bool(spans)
        waiting += spans
        while len(waiting) >= size:
            yield waiting[:size]
            del waiting[:size]
    if waiting:
        yield waiting


async def _rollout_ids(
    store: LightningStore, wanted: Sequence[str] | None
) -> AsyncGenerator[str, None]:
    if wanted is not None:
        for rollout_id in wanted:
            yield rollout_id
        return
    offset = 0
    while True:
        page = await store.query_rollouts(
            sort_by="start_time", limit=ROLLOUTS_PER_PAGE, offset=offset
        )
        for rollout in page:
            yield rollout.rollout_id
        if len(page) < ROLLOUTS_PER_PAGE:
            return
        offset += len(page)


class _Sender:
    """Posts batches to one address, again and again while that may help."""

    def __init__(self, url: str, headers: dict[str, str], outage_seconds: float) -> None:
        self._url = url
        self._headers = {
            **headers,
            "content-type": PROTOBUF_TYPE,
            "content-encoding": "gzip",
        }
        self._outage_seconds = outage_seconds

    async def send(
        self, session: aiohttp.ClientSession, spans: Sequence[Span], report: OtlpExportReport
    ) -> None:
        body = gzip.compress(encode_spans(spans).SerializeToString(), 1)
        deadline = monotonic() + self._outage_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            problem, wanted = await self._post(session, body, len(spans), report)
            if problem is None:
                return
            pause = min(max(pause, wanted), LONGEST_PAUSE_SECONDS)
            if monotonic() + pause > deadline:
                raise StoreError(f"{self._url} takes no spans: {problem}. Try again later.")
            logger.warning("backend takes no spans, will try again", extra={"reason": problem})
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, count: int, report: OtlpExportReport
    ) -> tuple[str | None, float]:
        """Send a batch; return what to try again for, if so, and the pause it asks for."""
        import aiohttp

        try:
            async with session.post(self._url, data=body, headers=self._headers) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return str(error) or type(error).__name__, 0.0
        if response.status in RETRYABLE:
            after = response.headers.get("retry-after", "")
            return f"status {response.status}", float(after) if after.isdigit() else 0.0
        if response.status >= 300:
            shown = answer[:200].decode("utf-8", "replace")
            raise StoreError(f"{self._url} refused the spans: {response.status} {shown!r}.")
        self._note(answer, count, report)
        return None, 0.0

    def _note(self, answer: bytes, count: int, report: OtlpExportReport) -> None:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceResponse,
        )

        try:
            partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:
            # Backends that answer with text have taken what they answered with success.
            report.spans += count
            return
        report.spans += count - partial.rejected_spans
        report.rejected += partial.rejected_spans
        if partial.error_message and len(report.messages) < MAX_MESSAGES:
            report.messages.append(partial.error_message)
