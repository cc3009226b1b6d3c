"""The other processes that serve the same address, asked for their share of an attempt's calls.

Each keeps its own ledger and its own memory, and clients reach any of them; so an attempt is
sealed by all, and what is deleted is forgotten by all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import aiohttp

from agentlightning.gateway.routes import attempt_path, seal_path
from agentlightning.gateway.seal import AttemptKey, CallTally

__all__ = ["PEER_HEADER", "GatewayPeers", "add_seals"]

logger = logging.getLogger(__name__)

PEER_HEADER = "x-agl-peer"
"""On what a peer asks for, which is not to be passed on again."""

_MARGIN_SECONDS = 5.0


class GatewayPeers:
    """Where a gateway's peers are reached; belongs to one event loop.

    Args:
        urls: Of the peers, this gateway left out.
        secret: What they ask for.
    """

    def __init__(self, urls: Sequence[str] = (), secret: str | None = None) -> None:
        self._urls = tuple(urls)
        self._headers = {PEER_HEADER: "1"}
        if secret is not None:
            self._headers["authorization"] = f"Bearer {secret}"

    async def seal(self, attempt: AttemptKey, timeout: float) -> list[dict[str, Any] | None]:
        """Return what each peer answers to a seal; None for one that cannot be reached."""
        path = seal_path(*attempt)
        return await self._ask_all("POST", path, {"timeout": timeout}, timeout + _MARGIN_SECONDS)

    async def delete(self, attempt: AttemptKey, path: str) -> None:
        """Have each peer forget what a path names; one that cannot be reached is logged."""
        await self._ask_all("DELETE", attempt_path(*attempt) + path, None, _MARGIN_SECONDS)

    async def _ask_all(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float
    ) -> list[dict[str, Any] | None]:
        if not self._urls:
            return []
        limit = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(headers=self._headers, timeout=limit) as session:
            asked = [_ask(session, method, url + path, body) for url in self._urls]
            return await asyncio.gather(*asked)


async def _ask(
    session: aiohttp.ClientSession, method: str, url: str, body: dict[str, Any] | None
) -> dict[str, Any] | None:
    try:
        async with session.request(method, url, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        logger.error("gateway's peer cannot be reached", extra={"url": url}, exc_info=error)  # noqa: TRY400 - says it all.
        return None


def add_seals(own: CallTally, theirs: Sequence[dict[str, Any] | None] = ()) -> dict[str, Any]:
    """Return the answer to a seal: the counts of this process and of its peers in one.

    `unknown_processes` counts peers that did not say theirs; the sums are then too small.
    """
    calls, errors = Counter(own.counts()), Counter(own.errors)
    unrecorded = own.unrecorded
    for said in theirs:
        if said is not None:
            calls.update(cast("dict[str, int]", said["calls"]))
            errors.update(cast("dict[str, int]", said["errors"]))
            unrecorded += int(said["unrecorded"])
    answer: dict[str, Any] = {
        "calls": dict(calls),
        "unrecorded": unrecorded,
        "errors": dict(errors),
    }
    unknown = sum(said is None for said in theirs)
    return {**answer, "unknown_processes": unknown} if unknown else answer
