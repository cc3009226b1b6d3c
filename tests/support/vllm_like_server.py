"""What a vLLM server shows over HTTP, with a script in place of a model.

Completions from prompts of ids, adapters, reloading, and the ways in which all of it fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

__all__ = ["VLLMLikeServer", "logprob_of"]

Body = dict[str, Any]
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def logprob_of(token: int, temperature: float = 1.0) -> float:
    """Return the log-probability that the script gives a token."""
    return -0.125 * (1 + token % 16) / temperature


@dataclass
class VLLMLikeServer:
    """Serves `say`; the other fields say how it behaves and what happened."""

    tokenizer: Any
    say: str | Callable[[Body], str] = "red"
    context: int = 512
    mode: str = "processed_logprobs"
    tells_ids: bool = True
    adapters_allowed: bool = True
    dev_mode: bool = True
    packed: bool = False
    refusals: list[tuple[int, Any]] = field(default_factory=list)
    """Answered to the next completions, one each."""
    in_stream: Any = None
    """Sent in place of a stream's first chunk."""
    ends: bool = True
    """Whether streams tell a finish reason."""
    cut_after: int | None = None
    """Tokens after which a stream breaks off."""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, completions give one token and wait."""
    completions: list[Body] = field(default_factory=list)
    headers: list[Body] = field(default_factory=list)
    """Of the completions, names in lower case."""
    orders: list[tuple[str, Body]] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    given_up: int = 0
    """Completions whose client went away."""
    url: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[VLLMLikeServer]:
        """Serve on a free port of this machine."""
        self.free.set()
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._complete)
        if self.adapters_allowed:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        if self.dev_mode:
            for path in ("/collective_rpc", "/reset_prefix_cache", "/weight_checker"):
                app.router.add_post(path, self._order)
        server = TestServer(app)
        await server.start_server()
        self.url = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            self.free.set()
            await server.close()

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[Body] = [{"id": "base", "parent": None, "max_model_len": self.context}]
        cards += [{"id": name, "parent": "base"} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        return web.json_response(
            {"tokens": self.tokenizer(text, add_special_tokens=False)["input_ids"]}
        )

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.orders.append((request.path, body))
        path = Path(body["lora_path"])
        if not (path / "adapter_model.safetensors").is_file():
            return _error(404, f"No adapter found for {path}")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.orders.append((request.path, body))
        if self.adapters.pop(body["lora_name"], None) is None:
            return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return web.Response(text="Success")

    async def _order(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.orders.append((request.path, body))
        if request.path == "/weight_checker":
            checksum = EMPTY if self.packed else "1" * 64
            return web.json_response({"checksums": {"layers.0.qkv_proj.weight": checksum}})
        return web.json_response({"results": [None]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.completions.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.refusals:
            status, told = self.refusals.pop(0)
            if status == HTTPStatus.OK:
                return web.Response(text=f"<{told}>", content_type="application/json")
            return _error(status, told)
        if body["model"] != "base" and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.")
        try:
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        text = self.say if isinstance(self.say, str) else self.say(body)
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids.append(self.tokenizer.eos_token_id)
        reason = "stop" if len(ids) <= body["max_tokens"] else "length"
        ids = ids[: body["max_tokens"]]
        if not body.get("stream"):
            await self.free.wait()
            choice = self._choice(body, ids, reason)
            return web.json_response({"choices": [choice], "usage": self._usage(body, ids)})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.in_stream is not None:
            await _send(response, self.in_stream)
            return response
        for at, token in enumerate(ids):
            if at == self.cut_after:
                assert request.transport is not None
                request.transport.close()
                return response
            is_last = self.ends and at == len(ids) - 1
            await _send(
                response, {"choices": [self._choice(body, [token], reason if is_last else None)]}
            )
            await self.free.wait()
        await _send(response, {"choices": [], "usage": self._usage(body, ids)})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _usage(self, body: Body, ids: list[int]) -> Body:
        cached = {"cached_tokens": 1}
        prompt = len(body["prompt"])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": len(ids),
            "prompt_tokens_details": cached,
        }

    def _choice(self, body: Body, ids: list[int], reason: str | None) -> Body:
        hot = body["temperature"] if self.mode != "raw_logprobs" else 1.0
        values = [logprob_of(token, hot or 1.0) for token in ids]
        if self.mode == "processed_logits":
            values = [-value for value in values]
        tops = [
            {f"token_id:{token}": value, **self._top(hot or 1.0, body["logprobs"])}
            for token, value in zip(ids, values, strict=True)
        ]
        choice: Body = {
            "index": 0,
            "text": "",
            "finish_reason": reason,
            "logprobs": {"token_logprobs": values, "top_logprobs": tops},
        }
        return {**choice, "token_ids": ids} if self.tells_ids else choice

    def _top(self, temperature: float, count: int) -> Body:
        sign = -1 if self.mode == "processed_logits" else 1
        return {
            f"token_id:{100 + rank}": sign * -(0.1 + rank) / temperature for rank in range(count)
        }


def _error(status: int, told: Any) -> web.Response:
    body = told if not isinstance(told, str) else {"error": {"message": told, "code": status}}
    return web.json_response(body, status=status)


async def _send(response: web.StreamResponse, chunk: Body) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
