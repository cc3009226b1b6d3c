"""OpenAI's chat completions over an engine: a request's body in, answers or chunks out.

Token ids and weight versions travel as `gateway.upstream` describes. HTTP is `service`'s work.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from agentlightning._internal.clock import now
from agentlightning.engine.answer_format import AnswerOpening, detect_answer_format
from agentlightning.engine.chat_request import ChatRequest, parse_chat_request
from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.choice_sampler import ChoiceSampler, SampledChoice, told_ids, usage_of
from agentlightning.engine.history.splicer import HistorySplicer, PromptPlan
from agentlightning.engine.token_source import TokenSource
from agentlightning.engine.token_text import TokenText

__all__ = ["ChatService", "HistoryMode"]

logger = logging.getLogger(__name__)

Body = dict[str, Any]

HistoryMode = Literal["exact", "template"]
"""`exact`: a prompt repeats the tokens that were sampled earlier in its conversation; `template`:
the chat template renders every prompt anew, as a model server without memory does."""


class ChatService:
    """Chat completions of one engine; its methods may run in any event loop."""

    def __init__(self, engine: TokenSource, *, model: str, history: HistoryMode = "exact") -> None:
        """Serve `engine`.

        Args:
            engine: A started engine, or what else samples.
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
        self._answers = detect_answer_format(engine.tokenizer)
        self._tells_choice = "tool_choice" in str(engine.tokenizer.chat_template)
        self._has_warned = False

    async def complete(
        self, body: Any, *, conversation: str | None = None, adapter: str | None = None
    ) -> Body:
        """Answer a request in one piece; `stream` in the body is not looked at.

        Args:
            body: The decoded request.
            conversation: Whose earlier answers the prompt may repeat.
            adapter: LoRA adapter to sample with, see `TokenSource.generate`.

        Raises:
            RequestError: The request is wrong; `to_body` of the error is the answer.
            EngineError: The engine stopped or died.
        """
        request = parse_chat_request(body)
        plan = self._plan(request, conversation)
        version = self.engine.version
        sampler = self._sampler(request, plan, adapter)
        choices = await sampler.whole(watched=bool(request.stop))
        answer = self._head(request, "chat.completion")
        answer["choices"] = [self._choice(request, choice, version) for choice in choices]
        answer["usage"] = usage_of(choices, each=request.n)
        if request.return_token_ids:
            answer["prompt_token_ids"] = plan.ids
            answer["weight_version"] = version
        return answer

    async def stream(
        self, body: Any, *, conversation: str | None = None, adapter: str | None = None
    ) -> AsyncGenerator[Body]:
        """Answer a request in chunks; closing the iterator cancels the completions.

        A wrong request raises at the first chunk, before anything was sampled.

        Args:
            body: The decoded request.
            conversation: Whose earlier answers the prompt may repeat.
            adapter: LoRA adapter to sample with, see `TokenSource.generate`.

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
        sampler = self._sampler(request, plan, adapter)
        async with aclosing(sampler.pieces()) as pieces:
            async for piece in pieces:
                yield {**head, "choices": [self._chunk(request, piece, version)]}
        if request.include_usage:
            yield {**head, "choices": [], "usage": usage_of(sampler.choices, each=request.n)}

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

    def tokenize(self, body: Any, *, conversation: str | None = None) -> Body:
        """Return the ids of a request's prompt, of any length; nothing is remembered of it.

        Args:
            body: The decoded request.
            conversation: Whose earlier answers the prompt would repeat.

        Raises:
            RequestError: The request is wrong.
        """
        ids = self._prompt(parse_chat_request(body), conversation, is_trial=True).ids
        return {"count": len(ids), "max_model_len": self.engine.context, "tokens": ids}

    def _sampler(
        self, request: ChatRequest, plan: PromptPlan, adapter: str | None
    ) -> ChoiceSampler:
        def remember(choice: SampledChoice) -> None:
            message = _message(choice)
            ids = choice.generation.token_ids
            self.history.remember(plan, message, ids, choice=choice.index)

        prompts = [plan.ids] * request.n
        return ChoiceSampler(
            self.engine,
            prompts,
            request.params,
            lambda: self._writer(request, plan),
            remember,
            adapter=adapter,
        )

    # -- shapes ---------------------------------------------------------------------------------

    def _prompt(
        self, request: ChatRequest, conversation: str | None, *, is_trial: bool = False
    ) -> PromptPlan:
        choice, options = request.tool_choice, request.template_kwargs
        if self._tells_choice and choice.said is not None:
            options = {"tool_choice": choice.said, **options}
        opening = self._opening(request)
        cannot_force = choice.is_forced and opening is None
        return self.history.plan(
            conversation if self._remembers else None,
            request.messages,
            tools=choice.only_named if cannot_force else choice.tools,
            template_kwargs=options,
            opening=opening,
            max_tokens=self.engine.context - 1,
            is_trial=is_trial,
        )

    def _opening(self, request: ChatRequest) -> AnswerOpening | None:
        """Return how an answer begins that has to be a call."""
        choice = request.tool_choice
        if not choice.is_forced:
            return None
        opening = self._answers.opening(choice.name)
        if opening is None and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "no known way of writing tool calls in the chat template; tool_choice is taken as auto",
                extra={"model": self.model},
            )
        return opening

    def _plan(self, request: ChatRequest, conversation: str | None) -> PromptPlan:
        plan = self._prompt(request, conversation)
        if plan.cause is not None:
            logger.debug(
                "earlier answers were rendered anew",
                extra={"conversation": conversation, "cause": plan.cause.value, "kept": plan.kept},
            )
        self.engine.check_prompt(plan.ids)
        return plan

    def _writer(self, request: ChatRequest, plan: PromptPlan) -> ChoiceWriter:
        choice, opening = request.tool_choice, self._opening(request)
        parser = self._answers.parser(
            plan.ids,
            tools=choice.tools if choice.finds_calls else None,
            separate=request.separate_reasoning,
            opening=opening,
        )
        return ChoiceWriter(
            self.engine.tokenizer,
            stop=request.stop,
            end_ids=self.engine.eos_ids | frozenset(request.params.stop_token_ids),
            parser=parser,
            opening=opening.text if opening else "",
        )

    def _head(self, request: ChatRequest, kind: str) -> Body:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(now()),
            "model": request.model or self.model,
        }

    def _choice(self, request: ChatRequest, choice: SampledChoice, version: int) -> Body:
        message = _message(choice)
        if not request.include_reasoning:
            message.pop("reasoning_content", None)
        return {
            "index": choice.index,
            "message": message,
            "finish_reason": choice.last.finish_reason,
            "stop_reason": choice.last.stop,
            **self._token_fields(request, choice.tokens, version),
        }

    def _chunk(self, request: ChatRequest, piece: Piece, version: int) -> Body:
        delta: Body = {}
        if piece.reasoning is not None and request.include_reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
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
            fields.update(told_ids(piece, version))
        return fields


def _message(choice: SampledChoice) -> Body:
    """Return a completed choice as a message."""
    said, calls = choice.writer.said, choice.last.calls
    message: Body = {"role": "assistant", "content": said.content}
    if said.reasoning is not None:
        message["reasoning_content"] = said.reasoning
    if calls:
        message |= {"content": said.content or None, "tool_calls": list(calls)}
    return message
