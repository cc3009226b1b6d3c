"""The engine as an upstream of the gateway: OpenAI's HTTP interface without a socket.

Serves `POST /v1/chat/completions` and `POST /v1/completions` (whole and streamed), `GET /v1/models`
and, as vLLM does, `POST /tokenize` for messages; anything else is a 404 in OpenAI's error shape.
"""

from __future__ import annotations

import logging
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
)
from typing import Any, cast

import orjson

from agentlightning.engine.chat import ChatService, HistoryMode
from agentlightning.engine.completions import CompletionService
from agentlightning.engine.history.examine import TemplateReport
from agentlightning.engine.history.splicer import HistoryStats
from agentlightning.engine.token_source import TokenSource
from agentlightning.errors import EngineError, RequestError
from agentlightning.gateway.upstream import (
    UpstreamCapabilities,
    UpstreamRequest,
    UpstreamResponse,
)

__all__ = ["EngineUpstream"]

logger = logging.getLogger(__name__)

_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class EngineUpstream:
    """Implements `gateway.upstream.Upstream` on an engine in this process, or on what samples
    elsewhere.

    It does not own the engine: `aclose` leaves it running.
    """

    def __init__(
        self,
        engine: TokenSource,
        *,
        model: str,
        history: HistoryMode = "exact",
        adapters: Collection[str] = (),
        roles: Mapping[str, str] | None = None,
        name: str | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serve an engine.

        Args:
            engine: A started engine, or what else samples.
            model: Name it is served under.
            history: Whether prompts repeat the tokens sampled earlier in their conversation
                (`UpstreamRequest.conversation`), or are rendered anew.
            adapters: LoRA adapters that are models of their own, named `adapter` or
                `model:adapter` by requests.
            roles: What else decides on an adapter: the calling agent's role, by adapter as a
                regular expression that is searched in it. The first that is found counts.
            name: What logs and error messages call it.
            on_close: Called by `aclose`, in each event loop that used it.
        """
        self._name = name or f"engine:{model}"
        self._on_close = on_close
        self._chat = ChatService(engine, model=model, history=history)
        self._completions = CompletionService(engine, model=model)
        self._model = model
        self._adapters = {name: name for name in adapters}
        self._adapters |= {f"{model}:{name}": name for name in adapters}
        self._roles = {name: re.compile(role) for name, role in (roles or {}).items()}

    @property
    def name(self) -> str:
        """Return what logs and error messages call it."""
        return self._name

    @property
    def capabilities(self) -> UpstreamCapabilities:
        """Return that it tells token ids, log-probabilities and versions."""
        return UpstreamCapabilities(token_ids=True, logprobs=True, versions=True)

    @property
    def template(self) -> TemplateReport:
        """Return what the model's chat template does to histories."""
        return self._chat.history.template

    def history_stats(self) -> HistoryStats:
        """Return how the prompts so far were made; from any thread."""
        return self._chat.history.stats()

    def forget(self, conversation: str) -> None:
        """Free what is remembered of an attempt that has ended; idempotent, from any thread.

        A call that comes later is answered all the same, its history rendered anew.
        """
        self._chat.history.forget(conversation)

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Answer a request; mistakes of the client are answers, too.

        A stream's status is known once its request is found right; an engine that fails later
        ends the stream with an error event and without `[DONE]`.

        Raises:
            UpstreamError: The tokens come from a server that failed or cannot be reached.
        """
        try:
            return await self._route(request)
        except RequestError as error:
            return _answer(error.status, error.to_body())
        except EngineError as error:
            return _answer(503, _engine_body(error))

    async def aclose(self) -> None:
        """Release this event loop's connections, if there are any; the engine goes on."""
        if self._on_close is not None:
            await self._on_close()

    async def _route(self, request: UpstreamRequest) -> UpstreamResponse:
        match request.method, request.path:
            case "GET", "/v1/models":
                return _answer(200, self._models())
            case "POST", "/v1/chat/completions":
                body = _decode(request.body)
                conversation, adapter = request.conversation, self._adapter(body, request.role)
                if _wants_stream(body):
                    return await _stream(
                        self._chat.stream(body, conversation=conversation, adapter=adapter)
                    )
                answer = await self._chat.complete(body, conversation=conversation, adapter=adapter)
                return _answer(200, answer)
            case "POST", "/v1/completions":
                body = _decode(request.body)
                adapter = self._adapter(body, request.role)
                if _wants_stream(body):
                    return await _stream(self._completions.stream(body, adapter=adapter))
                return _answer(200, await self._completions.complete(body, adapter=adapter))
            case "POST", "/tokenize":
                body = _decode(request.body)
                return _answer(200, self._chat.tokenize(body, conversation=request.conversation))
            case method, path:
                raise RequestError(
                    f"{self._name} serves no {method} {path}; it has "
                    "POST /v1/chat/completions, POST /v1/completions, POST /tokenize and "
                    "GET /v1/models",
                    status=404,
                    error_code="not_found",
                )

    def _adapter(self, body: Any, role: str | None) -> str | None:
        """Return the adapter that a request is to be sampled with, by its model or its agent."""
        members = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        named = members.get("model")
        if isinstance(named, str) and named in self._adapters:
            return self._adapters[named]
        fitting = (name for name, fits in self._roles.items() if role and fits.search(role))
        return next(fitting, None)

    def _models(self) -> dict[str, Any]:
        engine = self._chat.engine
        told = {
            "object": "model",
            "created": 0,
            "owned_by": "agentlightning",
            "max_model_len": engine.context,
            "weight_version": engine.version,
        }
        cards = [{"id": self._model, **told}]
        cards += [
            {"id": name, **told, "root": self._model, "parent": self._model}
            for name in dict.fromkeys(self._adapters.values())
        ]
        return {"object": "list", "data": cards}


def _wants_stream(body: Any) -> bool:
    return isinstance(body, dict) and cast("dict[str, Any]", body).get("stream") is True


async def _stream(chunks: AsyncGenerator[dict[str, Any]]) -> UpstreamResponse:
    # The first chunk is made before anything is sampled, so errors still get a status.
    first = await anext(chunks)
    return UpstreamResponse(
        status=200, headers=dict(_EVENTS), body=_events(first, chunks), on_close=chunks.aclose
    )


async def _events(
    first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any]]
) -> AsyncGenerator[bytes]:
    """Yield server-sent events, `[DONE]` last."""
    try:
        yield _event(first)
        async for chunk in chunks:
            yield _event(chunk)
        yield b"data: [DONE]\n\n"
    except EngineError as error:
        logger.warning("stream broken off by the engine", extra={"reason": str(error)})
        yield _event(_engine_body(error))
    except RequestError as error:
        # Only a server elsewhere finds a request wrong, or itself too busy, this late.
        yield _event(error.to_body())
    finally:
        await chunks.aclose()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _decode(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error


def _engine_body(error: EngineError) -> dict[str, Any]:
    return {
        "error": {
            "message": str(error),
            "type": "server_error",
            "param": None,
            "code": error.code,
        }
    }


def _answer(status: int, content: dict[str, Any]) -> UpstreamResponse:
    return UpstreamResponse(status=status, headers=dict(_JSON), body=_once(orjson.dumps(content)))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
