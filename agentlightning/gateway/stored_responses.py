"""Responses that outlive the process that gave them: asked for, deleted, and gone on from by id.

Each process remembers those that it gave. The store has the record of every one, so another
process reads them there.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, unquote

from agentlightning._internal.clock import now
from agentlightning._internal.ids import attempt_trace_id, new_span_id
from agentlightning.errors import RequestError, StoreUnavailableError
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses import ResponsesDialect, is_native
from agentlightning.gateway.dialects.responses_memory import ResponseMemory
from agentlightning.gateway.dialects.responses_record import recall
from agentlightning.gateway.models import ModelTable
from agentlightning.gateway.peers import GatewayPeers
from agentlightning.gateway.recorder import CallRecorder
from agentlightning.gateway.seal import AttemptKey
from agentlightning.types.call import CALL_SPAN_NAMES, CallRecord
from agentlightning.types.tracer import Span

__all__ = ["StoredResponses"]

_PREFIX = "/v1/responses/"
_NAME = CALL_SPAN_NAMES[ResponsesDialect.name]
_DELETED_NAME = f"{_NAME}.deleted"
_DELETED_ID = "agentlightning.response.deleted"
"""Of the span that tells all processes, also later ones, that a response was deleted."""
_STORE_SECONDS = 60.0


class StoredResponses:
    """The responses of translated calls; belongs to one event loop.

    A response is known to the attempt that got it. Those of calls of no attempt are not in the
    store, and so only in the memory of the process that gave them.

    Args:
        recorder: Knows the store.
        models: Say which responses their servers keep themselves.
        peers: The other processes, which have to forget what is deleted.
    """

    def __init__(self, recorder: CallRecorder, models: ModelTable, peers: GatewayPeers) -> None:
        self.memory = ResponseMemory()
        self._recorder = recorder
        self._models = models
        self._peers = peers

    async def recall(self, attempt: AttemptKey) -> None:
        """Remember all responses that an attempt got, whichever process gave them.

        Raises:
            NotFoundError: The store does not know the attempt.
            StoreUnavailableError: The store cannot be read.
        """
        store = self._recorder.store
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                spans = await store.query_spans(*attempt, name_contains=_NAME)
        except TimeoutError as error:
            raise StoreUnavailableError(
                "The store does not say which responses there are. Make the call again."
            ) from error
        calls = [call for span in spans if (call := CallRecord.from_span(span)) is not None]
        kept = [call for call in calls if not self._is_kept_elsewhere(call)]
        conversation = "/".join(attempt)
        recall(self.memory, kept, conversation)
        for span in spans:
            if span.name == _DELETED_NAME:
                self.memory.delete(str(span.attributes.get(_DELETED_ID)), conversation)

    async def answer(
        self,
        method: str,
        path: str,
        attempt: AttemptKey | None,
        *,
        query: str = "",
        from_peer: bool = False,
    ) -> Members | None:
        """Return the answer to a GET or DELETE of a response.

        None where it is not ours to know: another path, or an id that is not known while there is
        a model server that keeps responses itself.

        Args:
            method: Of the request.
            path: Without the attempt.
            attempt: Whose response it is.
            query: Of the request.
            from_peer: Another process deletes, and this one is to do its share.

        Raises:
            RequestError: There is no such response, or it is asked for as a stream.
            NotFoundError: The store does not know the attempt.
            StoreUnavailableError: The store cannot be read, or does not take what is deleted.
        """
        name = _name_in(path)
        if name is None or method not in {"GET", "DELETE"}:
            return None
        conversation = "/".join(attempt) if attempt else None
        if method == "DELETE" and from_peer:
            self.memory.delete(name, conversation)
            return _deleted(name)
        if attempt and not self.memory.has_seen(name):
            await self.recall(attempt)
        found = self.memory.response(name, conversation)
        if found is None:
            if any(map(is_native, self._models.routes.values())):
                return None
            raise RequestError(f"Response with id {name!r} not found.", status=404, param="id")
        if method == "DELETE":
            return await self._delete(name, path, attempt)
        if parse_qs(query).get("stream") == ["true"]:
            raise RequestError(
                "A stored response is not streamed again. Leave stream out.", param="stream"
            )
        return found

    async def _delete(self, name: str, path: str, attempt: AttemptKey | None) -> Members:
        if attempt is None:
            self.memory.delete(name, None)
        else:
            await self._recorder.store.add_span(_deleted_span(name, attempt))
            self.memory.delete(name, "/".join(attempt))
            await self._peers.delete(attempt, path)
        return _deleted(name)

    def _is_kept_elsewhere(self, call: CallRecord) -> bool:
        try:
            return is_native(self._models.find(call.model or None))
        except RequestError:
            return False


def _name_in(path: str) -> str | None:
    """Return the id of the response that a path names, if it names one and nothing below it."""
    name = path.removeprefix(_PREFIX)
    return None if name == path or not name or "/" in name else unquote(name)


def _deleted(name: str) -> Members:
    return {"id": name, "object": "response", "deleted": True}


def _deleted_span(name: str, attempt: AttemptKey) -> Span:
    at = now()
    return Span.from_attributes(
        attributes={_DELETED_ID: name},
        rollout_id=attempt[0],
        attempt_id=attempt[1],
        name=_DELETED_NAME,
        trace_id=attempt_trace_id(*attempt),
        span_id=new_span_id(),
        start_time=at,
        end_time=at,
    )
