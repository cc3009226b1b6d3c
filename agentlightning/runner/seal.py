"""Asking the gateway to close an attempt's books: wait for calls in flight, return the counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from agentlightning.types import Attempt, NamedResources, ProxyLLM

if TYPE_CHECKING:
    import aiohttp

__all__ = ["SealReport", "Sealer", "seal_urls"]

logger = logging.getLogger(__name__)

_MARGIN_SECONDS = 5.0
"""How much longer than the gateway's own wait the answer may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """What the gateways know of an attempt's calls."""

    calls: Mapping[str, int] | None = None
    """Counts by how they went; None when no model is behind a gateway of ours."""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    """Failed calls by `CallRecord.error_code`."""
    unrecorded: int = 0
    """Calls whose record the store did not take; none of them was a success."""
    is_gateway_lost: bool = False
    """An endpoint could not be reached, so that its calls were not counted."""

    def manifest(self) -> dict[str, Any]:
        """Return what an attempt's manifest keeps of it."""
        calls = None if self.calls is None else dict(self.calls)
        more = {"errors": dict(self.errors)} if self.errors else {}
        lost = {"unrecorded": self.unrecorded} if self.unrecorded else {}
        return {"calls": calls, **more, **lost}


def seal_urls(resources: NamedResources, attempt: Attempt) -> dict[str, str | None]:
    """Return where to seal the attempt: one URL per gateway, with the key it asks for.

    Example:
        >>> from agentlightning.types import ProxyLLM
        >>> attempt = Attempt(rollout_id="r", attempt_id="a", sequence_id=1, start_time=0.0)
        >>> seal_urls({"llm": ProxyLLM(endpoint="http://h/v1", model="m")}, attempt)
        {'http://h/rollout/r/attempt/a/seal': None}
    """
    models = [llm for llm in resources.values() if isinstance(llm, ProxyLLM)]
    ids = (attempt.rollout_id, attempt.attempt_id)
    return {llm.get_base_url(*ids).removesuffix("/v1") + "/seal": llm.api_key for llm in models}


class Sealer:
    """Holds the HTTP session of one event loop; use it as an async context manager."""

    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def seal(
        self, resources: NamedResources, attempt: Attempt, *, timeout: float
    ) -> SealReport:
        """Return the counts of the attempt's calls, summed over its gateways.

        Args:
            resources: What the agent was given.
            attempt: Whose calls to count.
            timeout: How long a gateway may wait for calls in flight, in seconds.
        """
        urls = seal_urls(resources, attempt)
        answers = [await self._ask(url, key, timeout) for url, key in urls.items()]
        calls: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for answer in answers:
            calls.update(answer.calls or {})
            errors.update(answer.errors)
        is_known = any(answer.calls is not None for answer in answers)
        return SealReport(
            calls=calls if is_known else None,
            errors=errors,
            unrecorded=sum(answer.unrecorded for answer in answers),
            is_gateway_lost=any(answer.is_gateway_lost for answer in answers),
        )

    async def _ask(self, url: str, key: str | None, timeout: float) -> SealReport:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession()
        limit = aiohttp.ClientTimeout(total=timeout + _MARGIN_SECONDS)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"timeout": timeout}
        try:
            async with self._session.post(url, json=body, headers=headers, timeout=limit) as answer:
                if answer.status != 200:
                    logger.debug("no seal at this endpoint", extra={"url": url})
                    return SealReport()
                result: Any = await answer.json()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            logger.warning("endpoint could not be sealed", extra={"url": url}, exc_info=error)
            return SealReport(is_gateway_lost=True)
        return _read_seal(result)


def _read_seal(result: Any) -> SealReport:
    members = cast("dict[str, Any]", result) if isinstance(result, dict) else {}
    if not isinstance(members.get("calls"), dict):
        return SealReport()
    return SealReport(
        calls=members["calls"],
        errors=members.get("errors") or {},
        unrecorded=int(members.get("unrecorded") or 0),
        is_gateway_lost=bool(members.get("unknown_processes")),
    )
