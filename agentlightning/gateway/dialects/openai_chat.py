"""OpenAI chat completions: streamed or not, tools, several choices, token ids as vLLM gives them."""

from __future__ import annotations

from typing import Any

from agentlightning.gateway.dialects.base import Exchange, ModelCall
from agentlightning.gateway.dialects.choice import ChoiceCapture
from agentlightning.gateway.dialects.openai_exchange import OpenAIDialect, OpenAIExchange
from agentlightning.gateway.models import ModelRoute

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

    def _take_whole_choice(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        message = choice.get("message")
        capture.take_message(message if isinstance(message, dict) else None)

    def _take_chunk(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        capture.take_delta(delta if isinstance(delta, dict) else {})
