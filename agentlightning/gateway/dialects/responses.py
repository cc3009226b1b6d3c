"""OpenAI responses: translated to chat completions, or passed on where they are spoken."""

from __future__ import annotations

from agentlightning._internal.ids import generate_id
from agentlightning.gateway.dialects.base import CapturedAnswer, Exchange, ModelCall
from agentlightning.gateway.dialects.openai_exchange import OpenAIDialect
from agentlightning.gateway.dialects.request_check import Members, read_text, refuse
from agentlightning.gateway.dialects.responses_answer import ResponseWriter, error_event
from agentlightning.gateway.dialects.responses_items import Item, read_items, referred
from agentlightning.gateway.dialects.responses_memory import ResponseMemory
from agentlightning.gateway.dialects.responses_native import NativeResponseExchange
from agentlightning.gateway.dialects.responses_request import to_chat_request
from agentlightning.gateway.dialects.translated import TranslatedExchange
from agentlightning.gateway.models import ModelRoute

__all__ = ["ResponsesDialect", "is_native"]


class ResponsesDialect(OpenAIDialect):
    """`POST /v1/responses`.

    Args:
        memory: Keeps the responses of translated calls.
    """

    name = "openai.responses"
    paths = frozenset({"/v1/responses"})
    is_translated = True

    def __init__(self, memory: ResponseMemory | None = None) -> None:
        self._memory = memory or ResponseMemory()

    def begin(self, call: ModelCall) -> Exchange:
        if is_native(call.route):
            return NativeResponseExchange(call.request, call.body, call.route)
        return _TranslatedResponseExchange(call, self._memory)

    def lacks(self, call: ModelCall) -> bool:
        if call.conversation is None or is_native(call.route):
            return False
        memory, conversation = self._memory, call.conversation
        previous = call.request.get("previous_response_id")
        if isinstance(previous, str) and memory.response(previous, conversation) is None:
            return not memory.has_seen(previous)
        return any(memory.item(name, conversation) is None for name in referred(call.request))

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_event(message, error_type=error_type, code=code)


def is_native(route: ModelRoute) -> bool:
    """Return whether a route's model server is to answer, and to keep, responses itself.

    Trained models' never do: only chat completions tell token ids.
    """
    return not route.trained and ResponsesDialect.name in route.upstream.capabilities.dialects


class _TranslatedResponseExchange(TranslatedExchange):
    def __init__(self, call: ModelCall, memory: ResponseMemory) -> None:
        request, route, conversation = call.request, call.route, call.conversation
        asked = read_items(request.get("input"), lambda name: memory.item(name, conversation))
        previous = None
        if request.get("previous_response_id"):
            previous = read_text("", request, "previous_response_id")
        before = _history(memory, previous, conversation)
        chat = to_chat_request(request, [*before, *asked], trained=route.trained)
        response_id = self._id = f"resp_{generate_id(32)}"

        def keep(response: Members) -> None:
            if request.get("store") is not False:
                items = [item for _, item in asked]
                memory.remember(
                    response_id, conversation, previous=previous, asked=items, response=response
                )

        model = str(request.get("model") or route.model)
        writer = ResponseWriter(response_id, request, model, keep)
        super().__init__(chat, route, writer)

    def answer(self) -> CapturedAnswer:
        captured = super().answer()
        # The id that the client knows the call by.
        captured.response_id = self._id
        return captured


def _history(memory: ResponseMemory, previous: str | None, conversation: str | None) -> list[Item]:
    """Return the items of the response that a request goes on from, and of those before it.

    Raises:
        RequestError: It is not known. Status and code are those of OpenAI's own server.
    """
    if previous is None:
        return []
    items = memory.history(previous, conversation)
    if items is None:
        refuse(
            "previous_response_id",
            f"Previous response with id {previous!r} not found. It was not stored, belongs to "
            "another attempt or is too old; send its items as input instead",
            code="previous_response_not_found",
        )
    return [("previous_response_id", item) for item in items]
