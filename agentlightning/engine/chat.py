"""OpenAI's chat completions over an engine: a request's body in, answers or chunks out.

Token ids and weight versions travel as `gateway.upstream` describes. HTTP is `service`'s work.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from agentlightning._internal.clock import now
from agentlightning.engine.chat_request import ChatRequest, parse_chat_request
from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.engine import Engine
from agentlightning.engine.history.splicer import HistorySplicer, PromptPlan
from agentlightning.engine.request import Generation, TokenEvent
from agentlightning.engine.sampling import derive_seed
from agentlightning.engine.template import render_prompt
from agentlightning.engine.token_text import TokenText
from agentlightning.engine.tools import ToolFormat, detect_format
from agentlightning.errors import EngineError

__all__ = ["ChatService", "HistoryMode"]

logger = logging.getLogger(__name__)

Body = dict[str, Any]

HistoryMode = Literal["exact", "template"]
"""`exact`: a prompt repeats the tokens that were sampled earlier in its conversation; `template`:
the chat template renders every prompt anew, as a model server without memory does."""


class ChatService:
    """Chat completions of one engine; its methods may run in any event loop."""

    def __init__(self, engine: Engine, *, model: str, history: HistoryMode = "exact") -> None:
        """Serve `engine`.

        Args:
            engine: A started engine.
            model: Name in answers to requests that name none.
            history: How prompts with earlier answers are made.
        """
        self.engine = engine
        self.model = model
        self.history = HistorySplicer(engine.tokenizer, end_ids=engine.eos_ids)
        """Makes the prompts; under `template` it has nothing to remember."""
        self._remembers = history == "exact"
        self._say_template()
        self._tokens = TokenText(engine.tokenizer)
        self._format: ToolFormat | None = detect_format(engine.tokenizer.chat_template)

    async def complete(self, body: Any, *, conversation: str | None = None) -> Body:
        """Answer a request in one piece; `stream` in the body is not looked at.

        Args:
            body: The decoded request.
            conversation: Whose earlier answers the prompt may repeat.

        Raises:
            RequestError: The request is wrong; `to_body` of the error is the answer.
            EngineError: The engine stopped or died.
        """
        request = parse_chat_request(body)
        plan = self._plan(request, conversation)
        version = self.engine.version
        writers = [self._writer(request) for _ in range(request.n)]

        def sample(index: int) -> Awaitable[Generation]:
            writer = writers[index]

            def watch(event: TokenEvent) -> bool:
                writer.push([event.token_id])
                return writer.stopped

            return self._generate(request, plan.ids, index, watch if request.stop else None)

        generations = await _all([sample(index) for index in range(request.n)])
        choices = [
            self._choice(request, index, writer, generation, version)
            for index, (writer, generation) in enumerate(zip(writers, generations, strict=True))
        ]
        for choice, generation in zip(choices, generations, strict=True):
            self.history.remember(
                plan, choice["message"], generation.token_ids, choice=choice["index"]
            )
        answer = self._head(request, "chat.completion")
        answer["choices"] = choices
        answer["usage"] = _usage(generations)
        if request.return_token_ids:
            answer["prompt_token_ids"] = plan.ids
            answer["weight_version"] = version
        return answer

    async def stream(self, body: Any, *, conversation: str | None = None) -> AsyncGenerator[Body]:
        """Answer a request in chunks; closing the iterator cancels the completions.

        A wrong request raises at the first chunk, before anything was sampled.

        Args:
            body: The decoded request.
            conversation: Whose earlier answers the prompt may repeat.

        Raises:
            RequestError: The request is wrong.
            EngineError: The engine stopped or died, perhaps in the middle.
        """
        request = parse_chat_request(body)
        plan = self._plan(request, conversation)
        version = self.engine.version
        head = self._head(request, "chat.completion.chunk")
        opening: Body = {}
        if request.return_token_ids:
            opening = {"prompt_token_ids": plan.ids, "weight_version": version}
        for index in range(request.n):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**head, "choices": [choice], **opening}
            opening = {}
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        sampling = asyncio.ensure_future(self._sample_pieces(request, plan, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield {**head, "choices": [self._chunk(request, piece, version)]}
            generations = await sampling
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await sampling
        if request.include_usage:
            yield {**head, "choices": [], "usage": _usage(generations)}

    def _say_template(self) -> None:
        report = self.history.template
        logger.info(
            "chat template examined",
            extra={
                "model": self.model,
                "history": "exact" if self._remembers else "template",
                "append_safe": report.append_safe,
                "can_splice": report.can_splice,
                "departing": report.departing,
            },
        )
        if self._remembers and report.unspliceable:
            logger.warning(
                "the chat template hides where answers end; such histories are rendered anew",
                extra={"model": self.model, "conversations": report.unspliceable},
            )

    def tokenize(self, body: Any) -> Body:
        """Return the ids of a request's prompt, of any length; nothing is remembered of it.

        Raises:
            RequestError: The request is wrong.
        """
        request = parse_chat_request(body)
        ids = render_prompt(
            self.engine.tokenizer,
            request.messages,
            tools=request.tools,
            template_kwargs=request.template_kwargs,
        )
        return {"count": len(ids), "max_model_len": self.engine.context, "tokens": ids}

    async def _sample_pieces(
        self, request: ChatRequest, plan: PromptPlan, pieces: asyncio.Queue[Piece | None]
    ) -> list[Generation]:
        """Sample all choices, putting their pieces into the queue and None at the end."""
        loop = asyncio.get_running_loop()

        async def sample(index: int) -> Generation:
            writer = self._writer(request)

            def watch(event: TokenEvent) -> bool:
                piece = writer.add(index, event)
                if piece is not None:
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
                return writer.stopped

            generation = await self._generate(request, plan.ids, index, watch)
            last = writer.last(index, generation.finish_reason)
            message = _message(writer, last)
            self.history.remember(plan, message, generation.token_ids, choice=index)
            pieces.put_nowait(last)
            return generation

        try:
            return await _all([sample(index) for index in range(request.n)])
        finally:
            pieces.put_nowait(None)

    async def _generate(
        self,
        request: ChatRequest,
        prompt: list[int],
        index: int,
        watch: Callable[[TokenEvent], bool] | None,
    ) -> Generation:
        params = request.params
        if params.seed is not None:
            params = replace(params, seed=derive_seed(params.seed, index))
        generation = await self.engine.generate(prompt, params, on_token=watch)
        if generation.finish_reason == "abort":
            raise EngineError("the engine was stopped before the completion was done")
        return generation

    # -- shapes ---------------------------------------------------------------------------------

    def _plan(self, request: ChatRequest, conversation: str | None) -> PromptPlan:
        plan = self.history.plan(
            conversation if self._remembers else None,
            request.messages,
            tools=request.tools,
            template_kwargs=request.template_kwargs,
            max_tokens=self.engine.context - 1,
        )
        if plan.cause is not None:
            logger.debug(
                "earlier answers were rendered anew",
                extra={"conversation": conversation, "cause": plan.cause.value, "kept": plan.kept},
            )
        self.engine.check_prompt(plan.ids)
        return plan

    def _writer(self, request: ChatRequest) -> ChoiceWriter:
        return ChoiceWriter(
            self.engine.tokenizer,
            stop=request.stop,
            end_ids=self.engine.eos_ids | frozenset(request.params.stop_token_ids),
            tool_format=self._format if request.use_tools else None,
        )

    def _head(self, request: ChatRequest, kind: str) -> Body:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(now()),
            "model": request.model or self.model,
        }

    def _choice(
        self,
        request: ChatRequest,
        index: int,
        writer: ChoiceWriter,
        generation: Generation,
        version: int,
    ) -> Body:
        if not request.stop:
            writer.push(generation.token_ids)
        piece = writer.last(index, generation.finish_reason)
        message = _message(writer, piece)
        whole = replace(
            piece,
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            top=generation.top_logprobs,
            versions=tuple(v for _, count, v in generation.versions for _ in range(count)),
        )
        return {
            "index": index,
            "message": message,
            "finish_reason": piece.finish_reason,
            "stop_reason": piece.stop,
            **self._token_fields(request, whole, version),
        }

    def _chunk(self, request: ChatRequest, piece: Piece, version: int) -> Body:
        delta: Body = {"content": piece.text} if piece.text else {}
        if piece.calls:
            delta["tool_calls"] = [
                {"index": index, **call} for index, call in enumerate(piece.calls)
            ]
        return {
            "index": piece.index,
            "delta": delta,
            "finish_reason": piece.finish_reason,
            "stop_reason": piece.stop,
            **self._token_fields(request, piece, version),
        }

    def _token_fields(self, request: ChatRequest, piece: Piece, version: int) -> Body:
        """Return what an answer or a chunk says about its tokens."""
        fields: Body = {"logprobs": None}
        if request.logprobs and piece.token_ids:
            fields["logprobs"] = {
                "content": self._tokens.logprobs(piece.token_ids, piece.logprobs, piece.top),
                "refusal": None,
            }
        if request.return_token_ids:
            fields["token_ids"] = list(piece.token_ids)
            if any(sampled_by != version for sampled_by in piece.versions):
                fields["token_versions"] = list(piece.versions)
        return fields


def _message(writer: ChoiceWriter, last: Piece) -> Body:
    """Return a completed choice as a message."""
    if last.calls:
        content = writer.content or None
        return {"role": "assistant", "content": content, "tool_calls": list(last.calls)}
    return {"role": "assistant", "content": writer.content}


async def _all(samples: list[Any]) -> list[Generation]:
    """Await all; when one fails or this task is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(sample) for sample in samples]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _usage(generations: list[Generation]) -> Body:
    prompt = len(generations[0].prompt_ids)
    sampled = sum(len(generation.token_ids) for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {
            "cached_tokens": min(generation.cached_prompt_tokens for generation in generations)
        },
    }
