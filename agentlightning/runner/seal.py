"""Asking the gateway to close an attempt's books: wait for calls in flight, return the counts."""

from __future__ import annotations

import logging
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from agentlightning.types import Attempt, NamedResources, ProxyLLM

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Sealer", "seal_urls"]

logger = logging.getLogger(__name__)

_MARGIN_SECONDS = 5.0
"""How much longer than the gateway's own wait the answer may take."""


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
    ) -> dict[str, int] | None:
        """Return the counts of the attempt's calls, summed over its gateways.

        Args:
            resources: What the agent was given.
            attempt: Whose calls to count.
            timeout: How long a gateway may wait for calls in flight, in seconds.

        Returns:
            None when no model is behind a gateway of ours.
        """
        totals: Counter[str] = Counter()
        urls = seal_urls(resources, attempt)
        answers = [await self._ask(url, key, timeout) for url, key in urls.items()]
        known = [answer for answer in answers if answer is not None]
        for answer in known:
            totals.update(answer)
        return dict(totals) if known else None

    async def _ask(self, url: str, key: str | None, timeout: float) -> dict[str, int] | None:
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
                    return None
                result: Any = await answer.json()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            logger.warning("endpoint could not be sealed", extra={"url": url}, exc_info=error)
            return None
        calls = result.get("calls") if isinstance(result, dict) else None
        return cast("dict[str, int]", calls) if isinstance(calls, dict) else None
