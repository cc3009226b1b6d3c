"""Several model servers behind one name, the least busy one first."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.gateway.upstream import (
    Upstream,
    UpstreamCapabilities,
    UpstreamRequest,
    UpstreamResponse,
)

__all__ = ["BalancedUpstream"]


class BalancedUpstream:
    """Sends each call to the server with the fewest calls in flight; ties go in turns.

    Args:
        upstreams: At least one.
    """

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = tuple(upstreams)
        self._in_flight = [0] * len(self._upstreams)
        self._turn = 0

    @property
    def name(self) -> str:
        """Return the names of all."""
        return ", ".join(upstream.name for upstream in self._upstreams)

    @property
    def capabilities(self) -> UpstreamCapabilities:
        """Return what all of them can do."""
        each = [upstream.capabilities for upstream in self._upstreams]
        return UpstreamCapabilities(
            token_ids=all(one.token_ids for one in each),
            token_ids_in_streams=all(one.token_ids_in_streams for one in each),
            logprobs=all(one.logprobs for one in each),
            versions=all(one.versions for one in each),
            dialects=frozenset.intersection(*(one.dialects for one in each)),
        )

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Start a call on one of them. See `Upstream.send`."""
        count = len(self._upstreams)
        self._turn += 1
        chosen = min(range(count), key=lambda at: (self._in_flight[at], (at - self._turn) % count))
        self._in_flight[chosen] += 1
        try:
            response = await self._upstreams[chosen].send(request)
        except BaseException:
            self._in_flight[chosen] -= 1
            raise
        inner_close = response.on_close

        async def close() -> None:
            self._in_flight[chosen] -= 1
            if inner_close is not None:
                await inner_close()

        response.on_close = close
        return response

    async def aclose(self) -> None:
        """Close all."""
        for upstream in self._upstreams:
            await upstream.aclose()
