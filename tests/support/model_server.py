"""A scripted OpenAI-compatible model server that knows exactly what it sent.

It follows vLLM's convention for token ids. A token is a piece of one to three bytes of the
text, so tokens cut multi-byte characters in two as real ones do, and its id says which bytes:
`text_of(ids)` gives the text back. Whoever holds ids can therefore prove which text they are of.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

END_ID = 2
Fault = Literal["hang", "malformed", "cut", "reset"]


@dataclass(kw_only=True)
class Answer:
    """What the server says to one request, and what goes wrong on the way."""

    text: str = "hello"
    tools: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments (JSON texts) of tool calls."""
    response_id: str = "chatcmpl-1"
    call_prefix: str = "call"
    """What their ids begin with."""
    reasoning: str = ""
    """Thoughts before the text."""
    reasoning_names: tuple[str, ...] = ("reasoning_content",)
    """The members that they are sent as; newer servers say `reasoning`."""
    finish_reason: str | None = None
    """What the choices say instead of `stop` or `tool_calls`."""
    matched: str | None = None
    """The stop string that the choices name as `stop_reason`, as vLLM does."""
    refusal: str | None = None
    cached_tokens: int | None = None
    instead: dict[str, Any] | None = None
    """Sent under status 200 in place of the answer, or as a stream's first event."""
    interleaved: bool = False
    """Stream the arguments of all tool calls by turns."""
    status: int = 200
    error: str = "scripted failure"
    """What it says under another status."""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    """Silence before the answer."""
    pace_seconds: float = 0.0
    """Silence between two chunks of a stream."""
    fault: Fault | None = None
    """`hang`: silence in the middle; `malformed`: no JSON; `cut`: a stream that ends in the
    middle; `reset`: a connection that does."""
    write_bytes: int | None = None
    """Streams are written in pieces of so many bytes, wherever that cuts."""
    spaced: bool = False
    """Write JSON with spaces and `\\u` escapes."""
    line_end: str = "\n"
    versions: tuple[int, int] | None = None
    """Weights before and after the middle of each choice."""


@dataclass(kw_only=True)
class SentCall:
    """One request and what was sent for it."""

    path: str
    headers: dict[str, str]
    request: dict[str, Any]
    prompt_token_ids: list[int]
    texts: list[str] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    status: int | None = None
    finished: bool = False
    cancelled: bool = False
    """The client hung up first."""


Script = Callable[[dict[str, Any]], Answer]


class ModelServer:
    """Runs in a thread; use as a context manager."""

    def __init__(self, script: Script | Answer | None = None) -> None:
        self.script: Script | Answer = script or Answer()
        self.calls: list[SentCall] = []
        self.raw: dict[str, tuple[int, str, bytes]] = {}
        """Status, content type and body of what is answered to a path instead."""
        self.url = ""
        self.reached = threading.Event()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> ModelServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and refuse new ones; idempotent."""
        assert self._loop is not None and self._stop is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    @property
    def endpoint(self) -> str:
        """Return the base URL for clients."""
        return f"{self.url}/v1"

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = web.Server(self._serve, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v1/chat/completions" or request.path in self.raw:
            body = await request.read()
            if request.path in self.raw:
                return self._raw_answer(request, body)
            echo = {"path": request.path_qs, "method": request.method, "body": body.decode()}
            return web.json_response({**echo, "headers": dict(request.headers)})
        raw = await request.read()
        body = json.loads(raw)
        prompt = json.dumps(body.get("messages"), ensure_ascii=False)
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = SentCall(
            path=request.path, headers=headers, request=body, prompt_token_ids=ids_of(prompt)
        )
        self.calls.append(sent)
        self.reached.set()
        answer = self.script(body) if callable(self.script) else self.script
        try:
            return await self._answer(request, body, answer, sent)
        except (asyncio.CancelledError, ConnectionResetError):
            sent.cancelled = True
            raise

    def _raw_answer(self, request: web.BaseRequest, body: bytes) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = json.loads(body)
        call = SentCall(path=request.path_qs, headers=headers, request=asked, prompt_token_ids=[])
        self.calls.append(call)
        status, kind, data = self.raw[request.path]
        return web.Response(status=status, body=data, headers={"content-type": kind})

    async def _answer(
        self, request: web.BaseRequest, body: dict[str, Any], answer: Answer, sent: SentCall
    ) -> web.StreamResponse:
        await asyncio.sleep(answer.delay_seconds)
        sent.status = answer.status
        if answer.status != 200:
            error = {"message": answer.error, "type": "server_error", "code": "scripted"}
            return web.json_response({"error": error}, status=answer.status, headers=answer.headers)
        choices = [_Choice(answer, index) for index in range(body.get("n") or 1)]
        for choice in choices:
            sent.texts.append(answer.text)
            sent.token_ids.append(choice.ids)
            sent.logprobs.append(choice.logprobs)
        if body.get("stream"):
            return await self._stream(request, body, answer, choices, sent)
        if answer.fault == "hang":
            await asyncio.sleep(3600)
        text = _dump(answer.instead or _whole(body, choices, sent.prompt_token_ids), answer)
        if answer.fault == "malformed":
            text = text[: len(text) // 2]
        if answer.fault in {"cut", "reset"}:
            response = web.StreamResponse(headers={"content-length": str(len(text) + 10)})
            await response.prepare(request)
            await response.write(text.encode())
            request.transport.abort()  # type: ignore[union-attr]
            return response
        sent.finished = True
        return web.Response(
            body=text.encode(), content_type="application/json", headers=answer.headers
        )

    async def _stream(
        self,
        request: web.BaseRequest,
        body: dict[str, Any],
        answer: Answer,
        choices: list[_Choice],
        sent: SentCall,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", **answer.headers}
        )
        await response.prepare(request)
        told = [answer.instead] if answer.instead else None
        told = told or _chunks(body, choices, sent.prompt_token_ids)
        chunks = [_dump(chunk, answer) for chunk in told]
        events = [f"data: {chunk}{2 * answer.line_end}" for chunk in [*chunks, "[DONE]"]]
        middle = len(events) // 2
        for at, event in enumerate(events):
            if at == middle and answer.fault == "hang":
                await asyncio.sleep(3600)
            if at == middle and answer.fault == "malformed":
                await response.write(b'data: {"choices": [\n\n')
                continue
            if at == middle and answer.fault == "cut":
                break
            if at == middle and answer.fault == "reset":
                request.transport.abort()  # type: ignore[union-attr]
                return response
            data = event.encode()
            size = answer.write_bytes or len(data)
            for start in range(0, len(data), size):
                await response.write(data[start : start + size])
                if answer.write_bytes:
                    await asyncio.sleep(0)
            await asyncio.sleep(answer.pace_seconds)
        else:
            sent.finished = True
        await response.write_eof()
        return response


class _Choice:
    """The tokens of one choice and how its text comes out token by token."""

    def __init__(self, answer: Answer, index: int) -> None:
        self.index = index
        self.answer = answer
        self.text = f"{answer.text}" if index == 0 else f"{answer.text}#{index}"
        self.tools: list[dict[str, Any]] = [
            {
                "id": f"{answer.call_prefix}_{index}_{at}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for at, (name, arguments) in enumerate(answer.tools)
        ]
        told = answer.reasoning + self.text
        told += "".join(f"<{name}>{arguments}" for name, arguments in answer.tools)
        self.ids = [*ids_of(told), END_ID]
        self.logprobs = [
            -((token * 7919 + at) % 100003) / 31337 for at, token in enumerate(self.ids)
        ]
        self.finish_reason = answer.finish_reason or ("tool_calls" if answer.tools else "stop")
        half = len(self.ids) // 2
        before, after = answer.versions or (0, 0)
        self.versions = [before] * half + [after] * (len(self.ids) - half)

    def message(self) -> dict[str, Any]:
        content = self.text if self.text or not self.tools else None
        plain: dict[str, Any] = {"role": "assistant", "content": content}
        if self.answer.reasoning:
            plain |= dict.fromkeys(self.answer.reasoning_names, self.answer.reasoning)
        if self.answer.refusal:
            plain["refusal"] = self.answer.refusal
        return {**plain, "tool_calls": self.tools} if self.tools else plain

    def tokens(self, body: dict[str, Any], start: int, end: int) -> dict[str, Any]:
        """Return the members about the tokens in a range, as far as they were asked for."""
        members: dict[str, Any] = {"logprobs": None}
        if body.get("logprobs"):
            content = [
                {"token": f"t{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
                for token, logprob in zip(
                    self.ids[start:end], self.logprobs[start:end], strict=True
                )
            ]
            members["logprobs"] = {"content": content, "refusal": None}
        if body.get("return_token_ids"):
            members["token_ids"] = self.ids[start:end]
            if self.answer.versions:
                members["token_versions"] = self.versions[start:end]
        return members

    def deltas(self) -> Iterator[dict[str, Any]]:
        """Yield one delta per token; half characters come out with their other half."""
        for delta in _text_deltas("reasoning", self.answer.reasoning):
            yield dict.fromkeys(self.answer.reasoning_names, delta["reasoning"])
        yield from _text_deltas("content", self.text)
        if self.answer.refusal:
            yield {"refusal": self.answer.refusal}
        own = [[*_tool_deltas(at, tool)] for at, tool in enumerate(self.tools)]
        if self.answer.interleaved:
            for turn in itertools.zip_longest(*own):
                yield from (delta for delta in turn if delta is not None)
        else:
            yield from itertools.chain.from_iterable(own)

    def ending(self) -> dict[str, Any]:
        """Return what the choice says about its end."""
        matched = self.answer.matched
        return {"stop_reason": matched} if matched else {}


def _text_deltas(key: str, text: str) -> Iterator[dict[str, Any]]:
    shown = ""
    data = b""
    for token in ids_of(text):
        data += bytes_of(token)
        whole = data.decode("utf-8", "ignore")
        yield {key: whole[len(shown) :]}
        shown = whole


def _tool_deltas(at: int, tool: dict[str, Any]) -> Iterator[dict[str, Any]]:
    function = tool["function"]
    opening = {"index": at, "id": tool["id"], "type": "function"}
    head = {"name": function["name"], "arguments": ""}
    yield {"tool_calls": [{**opening, "function": head}]}
    for start in range(0, len(function["arguments"]), 3):
        part = function["arguments"][start : start + 3]
        yield {"tool_calls": [{"index": at, "function": {"arguments": part}}]}


def ids_of(text: str) -> list[int]:
    """Return the token ids of a text."""
    data = text.encode()
    ids: list[int] = []
    at = 0
    while at < len(data):
        size = 1 + (data[at] + at) % 3
        ids.append(int.from_bytes(b"\x01" + data[at : at + size], "big"))
        at += size
    return ids


def bytes_of(token: int) -> bytes:
    """Return the bytes that a token stands for."""
    return b"" if token == END_ID else token.to_bytes(4, "big").lstrip(b"\x00")[1:]


def text_of(ids: list[int]) -> str:
    """Return the text of token ids."""
    return b"".join(bytes_of(token) for token in ids).decode()


def _head(body: dict[str, Any], kind: str, choices: list[_Choice]) -> dict[str, Any]:
    name = choices[0].answer.response_id
    return {"id": name, "object": kind, "created": 1, "model": body.get("model")}


def _whole(body: dict[str, Any], choices: list[_Choice], prompt_ids: list[int]) -> dict[str, Any]:
    answer = _head(body, "chat.completion", choices)
    answer["choices"] = [
        {
            "index": choice.index,
            "message": choice.message(),
            **choice.tokens(body, 0, len(choice.ids)),
            "finish_reason": choice.finish_reason,
            **choice.ending(),
        }
        for choice in choices
    ]
    answer["usage"] = _usage(choices, prompt_ids)
    return {**answer, **_ids_members(body, choices, prompt_ids)}


def _chunks(
    body: dict[str, Any], choices: list[_Choice], prompt_ids: list[int]
) -> Iterator[dict[str, Any]]:
    head = _head(body, "chat.completion.chunk", choices)
    first: dict[str, Any] = _ids_members(body, choices, prompt_ids)
    for choice in choices:
        opening = {"index": choice.index, "delta": {"role": "assistant", "content": ""}}
        empty = {**choice.tokens(body, 0, 0), "finish_reason": None}
        yield {**head, "choices": [{**opening, **empty}], **first}
        first = {}
    for index, at, delta, is_last in _interleaved(choices):
        choice = choices[index]
        end = len(choice.ids) if is_last else min(at + 1, len(choice.ids))
        tokens = choice.tokens(body, min(at, end), end)
        ending = {"finish_reason": choice.finish_reason if is_last else None}
        if is_last:
            ending |= choice.ending()
        yield {**head, "choices": [{"index": index, "delta": delta, **tokens, **ending}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(choices, prompt_ids)}


def _interleaved(choices: list[_Choice]) -> Iterator[tuple[int, int, dict[str, Any], bool]]:
    """Yield (choice, position, delta, is it the last), the choices taking turns."""
    deltas = [[*choice.deltas(), {}] for choice in choices]
    for at in range(max(len(own) for own in deltas)):
        for index, own in enumerate(deltas):
            if at < len(own):
                yield index, at, own[at], at == len(own) - 1


def _ids_members(
    body: dict[str, Any], choices: list[_Choice], prompt_ids: list[int]
) -> dict[str, Any]:
    if not body.get("return_token_ids"):
        return {}
    versions = choices[0].answer.versions
    version = {"weight_version": versions[0]} if versions else {}
    return {"prompt_token_ids": prompt_ids, **version}


def _usage(choices: list[_Choice], prompt_ids: list[int]) -> dict[str, Any]:
    sampled = sum(len(choice.ids) for choice in choices)
    usage: dict[str, Any] = {
        "prompt_tokens": len(prompt_ids),
        "completion_tokens": sampled,
        "total_tokens": len(prompt_ids) + sampled,
    }
    cached = choices[0].answer.cached_tokens
    return (
        usage if cached is None else {**usage, "prompt_tokens_details": {"cached_tokens": cached}}
    )


def _dump(value: Any, answer: Answer) -> str:
    if answer.spaced:
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
