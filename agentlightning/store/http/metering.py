"""Counting requests: `agl.http.total` and `agl.http.latency` by route, method and status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentlightning._internal.clock import monotonic

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["Metering"]

TOTAL: Final = "agl.http.total"
LATENCY: Final = "agl.http.latency"
LABELS: Final = ("path", "method", "status")
LATENCY_BUCKETS: Final = tuple(
    round(base * 10.0**power, 12) for power in range(-6, 3) for base in (1, 1.5, 2, 3, 5)
)[:-1]
"""Upper bounds in seconds, from 1 µs to 300 s."""

CLIENT_GONE: Final = 499
CRASHED: Final = 520


class Metering:
    """ASGI middleware that counts each request when it ends."""

    def __init__(self, app: ASGIApp, *, tracker: MetricsBackend) -> None:
        self._app = app
        self._tracker = tracker

    @staticmethod
    def register(tracker: MetricsBackend) -> None:
        """Announce the metrics, once for a tracker."""
        tracker.register_counter(TOTAL, LABELS)
        tracker.register_histogram(LATENCY, LABELS, LATENCY_BUCKETS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it; streams count when they end."""
        if scope["type"] != "http" or "agl.seen" in scope:
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE
        # Why: layers in between may copy the scope, so the endpoint writes into a shared object.
        seen = scope["agl.seen"] = dict[str, str]()
        began = monotonic()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            status = CRASHED
            raise
        finally:
            labels = {
                # Why: a path with ids in it would make one time series per rollout.
                "path": seen.get("path", "other"),
                "method": scope["method"],
                "status": str(status),
            }
            await self._tracker.inc_counter(TOTAL, 1.0, labels)
            await self._tracker.observe_histogram(LATENCY, monotonic() - began, labels)
