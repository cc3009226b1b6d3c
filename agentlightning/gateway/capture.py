"""One captured call from its request to the last byte of its answer.

The rule that everything here serves: the end of an answer leaves only after its record is in the
store. Every way a call can end leaves exactly one record, or an error with the client.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from agentlightning._internal.clock import now
from agentlightning._internal.ids import new_call_id
from agentlightning.errors import (
    AgentLightningError,
    ContextLengthError,
    GatewayPausedError,
    NotFoundError,
    RequestError,
    StoreUnavailableError,
    UpstreamError,
)
from agentlightning.gateway.budget import CallBudget
from agentlightning.gateway.dialects.base import Dialect, Exchange, ModelCall
from agentlightning.gateway.dialects.translated import read_error
from agentlightning.gateway.failure import CallFailure, code_of_answer
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.models import ModelRoute, ModelTable
from agentlightning.gateway.pause import PauseGate
from agentlightning.gateway.peers import GatewayPeers
from agentlightning.gateway.price import TokenPrice
from agentlightning.gateway.recorder import CallRecorder
from agentlightning.gateway.replay import KEY_HEADER, ReplayCache
from agentlightning.gateway.reply import Reply
from agentlightning.gateway.routes import (
    forwarded_headers,
    read_retry,
    read_subagent,
    read_trace_parent,
)
from agentlightning.gateway.seal import AttemptKey, CallLedger, CallTally
from agentlightning.gateway.shrink import send_shrunk
from agentlightning.gateway.stored_responses import StoredResponses
from agentlightning.gateway.stream import EventSplitter
from agentlightning.gateway.upstream import UpstreamRequest, UpstreamResponse
from agentlightning.types.call import CallOutcome, CallRecord

__all__ = ["CallServices", "CapturedCall", "ClientRequest", "read_body"]

logger = logging.getLogger(__name__)

# How long after the last event a server may keep its stream open.
_LINGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """A request as it came in, its address already read."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    role: str | None = None
    """Which agent calls, where the client says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallServices:
    """What all calls of one gateway share."""

    models: ModelTable
    gate: PauseGate
    ledger: CallLedger
    recorder: CallRecorder
    replays: ReplayCache
    peers: GatewayPeers
    responses: StoredResponses
    pause_wait_seconds: float
    budget: CallBudget | None


def read_body(body: bytes) -> dict[str, Any]:
    """Return a request's JSON object.

    Raises:
        RequestError: It is something else.
    """
    try:
        value = parse_json(body)
    except ValueError as error:
        raise RequestError(f"The request body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("The request body is not a JSON object.")
    return cast("dict[str, Any]", value)


class CapturedCall:
    """Serves one call and records it, if it belongs to an attempt."""

    def __init__(
        self,
        services: CallServices,
        dialect: Dialect,
        attempt: AttemptKey | None,
        request: ClientRequest,
        reply: Reply,
    ) -> None:
        self._services = services
        self._dialect = dialect
        self._request = request
        self._reply = reply
        self._exchange: Exchange | None = None
        self._entered = False
        self._price: TokenPrice | None = None
        self._whole: tuple[int, dict[str, str], bytes] | None = None
        self._attempt = attempt
        self._tally: CallTally | None = services.ledger.begin(attempt) if attempt else None
        trace_id, parent_span_id = read_trace_parent(request.headers)
        self._record = CallRecord(
            call_id=new_call_id(),
            rollout_id=attempt[0] if attempt else "",
            attempt_id=attempt[1] if attempt else "",
            dialect=dialect.name,
            role=request.role,
            start_time=now(),
            end_time=0.0,
            trace_id=trace_id,
            parent_span_id=parent_span_id,
            retry=read_retry(request.headers),
            idempotency_key=request.headers.get(KEY_HEADER),
        )

    async def serve(self) -> None:
        """Answer the call.

        Raises:
            asyncio.CancelledError: The client went away, or the gateway stops; recorded.
        """
        try:
            await self._pass_on()
        except asyncio.CancelledError:
            gone = self._reply.is_unwanted
            who = "client went away" if gone else "gateway stopped"
            code = "client_gone" if gone else "gateway_stopped"
            await self._settle_quietly("cancelled", f"The {who} before the answer's end.", code)
            raise
        except (NotFoundError, StoreUnavailableError) as error:
            self._record.error_code = error.code
            self._release("error")
            await self._fail(error)
        except (RequestError, GatewayPausedError, UpstreamError) as error:
            await self._fail_recorded(error)
        except Exception as error:
            # Boundary: upstreams are the user's to write, and one call must not stop the others.
            logger.exception("model call failed", extra={"call_id": self._record.call_id})
            await self._fail_recorded(UpstreamError(f"{type(error).__name__}: {error}"))
        finally:
            self._release("error")

    async def _pass_on(self) -> None:
        services, record = self._services, self._record
        body = read_body(self._request.body)
        record.request = body
        record.model = str(body.get("model") or "")
        record.stream = bool(body.get("stream"))
        route = services.models.find(record.model or None)
        record.trained = route.trained
        record.role = record.role or route.role or read_subagent(self._request.headers)
        self._price = route.price
        self._admit()
        if route.trained:
            await services.gate.enter(services.pause_wait_seconds)
            self._entered = True
        conversation = "/".join(self._attempt) if self._attempt else None
        call = ModelCall(
            request=body, body=self._request.body, route=route, conversation=conversation
        )
        if self._attempt and self._dialect.lacks(call):
            await services.responses.recall(self._attempt)
        exchange = self._dialect.begin(call)
        self._exchange = exchange
        record.chat_request = exchange.chat_request
        response = await self._send(exchange, route)
        try:
            record.http_status = response.status
            await self._answer(exchange, response, route)
        finally:
            await response.aclose()

    async def _send(self, exchange: Exchange, route: ModelRoute) -> UpstreamResponse:
        request, budget = self._upstream_request(exchange), self._services.budget
        if budget is None or self._tally is None or budget.when_short == "refuse":
            return await route.upstream.send(request)
        left = budget.longest_answer(self._tally.spent, route.price)
        return await send_shrunk(route.upstream, request, left)

    def _upstream_request(self, exchange: Exchange) -> UpstreamRequest:
        return UpstreamRequest(
            method=self._request.method,
            path=exchange.upstream_path,
            query=self._request.query,
            headers=forwarded_headers(self._request.headers),
            body=exchange.upstream_body,
            conversation="/".join(self._attempt) if self._attempt else None,
            role=self._record.role or self._record.model or None,
        )

    async def _answer(
        self, exchange: Exchange, response: UpstreamResponse, route: ModelRoute
    ) -> None:
        is_ok = response.status < HTTPStatus.BAD_REQUEST
        kind = response.headers.get("content-type", "")
        if is_ok and kind.startswith("text/event-stream"):
            await self._relay(exchange, response)
        else:
            body = await response.read()
            if is_ok:
                events = exchange.split_whole(body)
                if events is None:
                    body = exchange.take_whole(body)
                else:
                    body = b"".join([exchange.take_event(event) for event in events])
                    response.headers["content-type"] = "text/event-stream; charset=utf-8"
                self._whole = (response.status, response.headers, body)
                await self._settle()
                await self._reply.whole(*self._whole)
            else:
                await self._answer_error(exchange, response, body)
        if is_ok and route.upstream.capabilities.token_ids and route.trained:
            self._check_ids(route)

    async def _answer_error(
        self, exchange: Exchange, response: UpstreamResponse, body: bytes
    ) -> None:
        """Pass an error on; one about the prompt's length is said as clients test for it."""
        status, code = response.status, code_of_answer(response.status, body)
        await self._settle_quietly("error", _reported_error(status, body), code)
        message, _, own_code = read_error(status, body)
        if code == own_code or code != ContextLengthError.code or not _is_openai(exchange):
            body = exchange.take_error(status, body)
        else:
            said = ContextLengthError(message)
            status = said.status
            body = exchange.take_error(status, write_json(said.to_body()))
            response.headers["content-type"] = "application/json"
        await self._reply.whole(status, response.headers, body)

    async def _relay(self, exchange: Exchange, response: UpstreamResponse) -> None:
        """Pass a stream on event by event, but hold its end back until the call is recorded."""
        held: list[bytes] = []
        kept: list[bytes] = []
        await self._reply.start(response.status, response.headers)
        events = EventSplitter()
        try:
            async with asyncio.timeout(None) as linger:
                async for piece in response.body:
                    passed: list[bytes] = []
                    try:
                        for event in events.feed(piece):
                            shown = exchange.take_event(event)
                            (held if exchange.is_complete else passed).append(shown)
                    finally:
                        # What came before an event that makes no sense is the client's as well.
                        if passed:
                            if self._record.idempotency_key:
                                kept += passed
                            await self._reply.piece(b"".join(passed))
                    if exchange.is_over:
                        linger.reschedule(asyncio.get_running_loop().time() + _LINGER_SECONDS)
        except TimeoutError:
            if not exchange.is_over:
                raise
        held += [exchange.take_event(event) for event in events.finish()]
        held.append(exchange.finish())
        if not exchange.is_complete:
            raise UpstreamError("The model server's stream broke off before its end.")
        self._whole = (response.status, response.headers, b"".join([*kept, *held]))
        await self._settle()
        await self._reply.end(b"".join(held))

    async def _settle(self) -> None:
        """Record an answer that came to its end."""
        failure = self._exchange.failure if self._exchange else None
        if failure is None:
            await self._store("ok", None, None)
        else:
            # As an answer of its own, this error would have had a status that says whose it is.
            code = code_of_answer(400, failure.encode())
            known = code == ContextLengthError.code
            await self._store("error", failure, code if known else UpstreamError.code)

    async def _settle_quietly(self, outcome: CallOutcome, error: str, code: str) -> None:
        """Record a call whose client gets no success, whether or not the store takes it."""
        try:
            await self._store(outcome, error, code)
        except (NotFoundError, StoreUnavailableError):
            # The recorder logged and counted it, and the client is told of the first error.
            self._release(outcome)

    async def _store(self, outcome: CallOutcome, error: str | None, code: str | None) -> None:
        if self._tally is None:
            return
        record = self._record
        record.end_time = now()
        record.outcome, record.error, record.error_code = outcome, error, code
        if self._exchange:
            answer = self._exchange.answer()
            record.response_id = answer.response_id
            record.prompt_token_ids = answer.prompt_token_ids
            record.choices, record.usage = answer.choices, answer.usage
        self._tally.spent.charge(record, self._price)
        # The model is done with this call: an update may go on while the store writes.
        self._leave()
        try:
            await self._services.recorder.write(record)
        except (NotFoundError, StoreUnavailableError):
            self._tally.unrecorded += 1
            raise
        except asyncio.CancelledError:
            self._release(outcome)
            raise
        self._release(outcome)

    async def _fail_recorded(self, error: AgentLightningError) -> None:
        await self._settle_quietly("error", str(error), CallFailure.from_error(error).code)
        await self._fail(error)

    async def _fail(self, error: AgentLightningError) -> None:
        failure = CallFailure.from_error(error)
        details = {"error_type": failure.error_type, "code": failure.code}
        if not self._reply.has_started:
            body = self._dialect.error_body(failure.message, **details)
            await self._reply.whole(failure.status, failure.headers, body)
        elif not self._reply.has_ended:
            # Without an end, so that no client takes what it has for the whole answer.
            exchange = self._exchange
            told = exchange.break_off(failure.message, **details) if exchange else None
            told = told or self._dialect.error_event(failure.message, **details)
            await self._reply.piece(told)

    def _admit(self) -> None:
        """Count the call on its attempt's budget, or refuse it."""
        if self._tally is None:
            return
        spent, at = self._tally.spent, self._record.start_time
        if self._services.budget is not None:
            self._services.budget.check(spent, now=at)
        spent.admit(now=at)

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._services.gate.leave()

    def _release(self, outcome: CallOutcome) -> None:
        """Count the call as ended; the first outcome counts."""
        self._leave()
        tally, self._tally = self._tally, None
        if tally is None:
            return
        self._services.ledger.end(tally, outcome, self._record.error_code)
        key = self._record.idempotency_key
        if outcome == "ok" and key and self._attempt and self._whole:
            self._services.replays.put((self._attempt, key), self._request.body, *self._whole)

    def _check_ids(self, route: ModelRoute) -> None:
        if not any(choice.token_ids for choice in self._record.choices):
            logger.warning(
                "trained model's answer has no token ids; it cannot be learnt from",
                extra={"call_id": self._record.call_id, "upstream": route.upstream.name},
            )


def _is_openai(exchange: Exchange) -> bool:
    return not exchange.upstream_path.startswith("/v1/messages")


def _reported_error(status: int, body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace")
    return f"The model server answered {status}: {text}"
