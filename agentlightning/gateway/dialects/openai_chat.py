"""OpenAI chat completions: streamed or not, tools, several choices, token ids as vLLM gives them."""

from __future__ import annotations

from typing import Any

from agentlightning.gateway.dialects.base import Exchange, ModelCall
from agentlightning.gateway.dialects.choice import ChoiceCapture
from agentlightning.gateway.dialects.openai_exchange import TOKENS, OpenAIDialect, OpenAIExchange
from agentlightning.gateway.dialects.token_chunk import TokenReader
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent

__all__ = ["ChatExchange", "OpenAIChatDialect"]


class OpenAIChatDialect(OpenAIDialect):
    """`POST /v1/chat/completions`."""

    name = "openai.chat"
    paths = frozenset({"/v1/chat/completions"})

    def begin(self, call: ModelCall) -> Exchange:
        return ChatExchange(call.request, call.body, call.route)


class ChatExchange(OpenAIExchange):
    """One call of chat completions."""

    path = "/v1/chat/completions"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, request: dict[str, Any], body: bytes, route: ModelRoute) -> None:
        wanted = request.get("n")
        choices = wanted if isinstance(wanted, int) and wanted > 0 else 1
        logprobs = None if request.get("logprobs") is True else True
        super().__init__(request, body, route, logprobs=logprobs, choices=choices)
        self._tokens = TokenReader() if self._cut == TOKENS else None

    def take_event(self, event: ServerEvent) -> bytes:
        if self._tokens is None:
            return super().take_event(event)
        token = self._tokens.read(event.raw)
        capture = self._choices.get(token[0].choice) if token else None
        if token is None or capture is None:
            self._tokens.learn(event.raw)
            return super().take_event(event)
        (_, text, logprob, token_id), shortened = token
        capture.take_token(token_id, logprob, self._version)
        capture.take_text(text)
        return shortened

    def _take_whole_choice(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        message = choice.get("message")
        capture.take_message(message if isinstance(message, dict) else None)

    def _take_chunk(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        said = choice.get("delta")
        delta: dict[str, Any] = said if isinstance(said, dict) else {}
        text = delta.get("content")
        if len(delta) == 1 and isinstance(text, str):
            capture.take_text(text)
        else:
            capture.take_delta(delta)
