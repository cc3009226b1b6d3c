"""The scripted model server with completions: prompts of every kind, several in one call.

As vLLM does it: each choice tells the ids of its own prompt, and an echoed prompt comes with
log-probabilities of its own, before those of the sampled tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from tests.support.model_server import END_ID, Answer, ModelServer, SentCall, ids_of, text_of

__all__ = ["CompletionServer"]


class CompletionServer(ModelServer):
    """Answers `POST /v1/completions` with the script's text, the prompt's number behind it."""

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/v1/completions":
            return await super()._serve(request)
        body: dict[str, Any] = json.loads(await request.read())
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = SentCall(path=request.path, headers=headers, request=body, prompt_token_ids=[])
        self.calls.append(sent)
        answer = self.script(body) if callable(self.script) else self.script
        choices = [
            choice_of(body, answer, prompt, number)
            for number, prompt in enumerate(prompts_of(body))
            for _ in range(body.get("n") or 1)
        ]
        for at, choice in enumerate(choices):
            choice["index"] = at
            sent.texts.append(choice["text"])
            sent.token_ids.append(choice["token_ids"])
            sent.logprobs.append(choice["logprobs"]["token_logprobs"])
        told = [shown(body, choice) for choice in choices]
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        if not body.get("stream"):
            whole = {**head, "choices": told, "usage": usage}
            return web.json_response(whole, dumps=lambda value: dump(value, answer))
        chunks = [{**head, "choices": [chunk]} for chunk in chunks_of(told)]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": usage})
        end = 2 * answer.line_end
        data = (
            "".join(f"data: {dump(chunk, answer)}{end}" for chunk in chunks) + f"data: [DONE]{end}"
        )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        raw = data.encode()
        size = answer.write_bytes or len(raw)
        for start in range(0, len(raw), size):
            await response.write(raw[start : start + size])
        await response.write_eof()
        return response


def prompts_of(body: dict[str, Any]) -> list[list[int]]:
    """Return the ids of each prompt."""
    given = body["prompt"]
    several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return [ids_of(prompt) if isinstance(prompt, str) else prompt for prompt in several]


def choice_of(
    body: dict[str, Any], answer: Answer, prompt: list[int], number: int
) -> dict[str, Any]:
    text = answer.text + (f"#{number}" if number else "")
    ids = [*ids_of(text), END_ID]
    logprobs: list[float | None] = [-((it * 7919 + at) % 1009) / 31 for at, it in enumerate(ids)]
    tokens = [f"t{it}" for it in ids]
    if body.get("echo"):
        # As vLLM does it: whoever gets the ids of a prompt gets no text of it.
        text = text if body.get("return_token_ids") else text_of(prompt) + text
        logprobs = [None, *[-0.5] * (len(prompt) - 1), *logprobs]
        tokens = [f"t{it}" for it in prompt] + tokens
    return {
        "index": 0,
        "text": text,
        "logprobs": {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": None},
        "finish_reason": answer.finish_reason or "stop",
        "prompt_token_ids": prompt,
        "token_ids": ids,
    }


def shown(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for."""
    told = dict(choice)
    if body.get("logprobs") is None:
        told["logprobs"] = None
    if not body.get("return_token_ids"):
        del told["prompt_token_ids"], told["token_ids"]
    return told


def chunks_of(choices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the choices in two pieces each, by turns, the last choice first."""
    for part in (0, 1):
        for choice in reversed(choices):
            chunk = dict(choice)
            if part:
                chunk.pop("prompt_token_ids", None)
            else:
                chunk["finish_reason"] = None
            half = slice(0, 1) if part == 0 else slice(1, None)
            chunk["text"] = choice["text"][half]
            if "token_ids" in choice:
                chunk["token_ids"] = choice["token_ids"][half]
            if choice["logprobs"]:
                ids = choice.get("token_ids") or choice["logprobs"]["tokens"]
                at = len(choice["logprobs"]["tokens"]) - len(ids) + 1
                piece = slice(0, at) if part == 0 else slice(at, None)
                chunk["logprobs"] = {k: v and v[piece] for k, v in choice["logprobs"].items()}
            yield chunk


def dump(value: Any, answer: Answer) -> str:
    return json.dumps(value, ensure_ascii=answer.spaced)
