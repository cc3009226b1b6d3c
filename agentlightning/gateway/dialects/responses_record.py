"""Responses out of the records of the calls that gave them, for processes that did not."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses_answer import ResponseWriter
from agentlightning.gateway.dialects.responses_items import read_items
from agentlightning.gateway.dialects.responses_memory import ResponseMemory
from agentlightning.types.call import CallRecord

__all__ = ["recall", "response_of"]

logger = logging.getLogger(__name__)


def recall(memory: ResponseMemory, calls: Iterable[CallRecord], conversation: str) -> None:
    """Remember the responses of an attempt's translated calls, unless they are remembered already.

    Args:
        memory: Takes them.
        calls: The attempt's, of the API of responses.
        conversation: Names the attempt.
    """
    for call in sorted(calls, key=lambda call: call.end_time):
        name = call.response_id
        is_stored = call.outcome == "ok" and call.request.get("store") is not False
        if name is None or not is_stored or not call.choices or memory.has_seen(name):
            continue
        try:
            asked = read_items(
                call.request.get("input"), lambda name: memory.item(name, conversation)
            )
        except RequestError as error:
            # It refers to an item of a response that was deleted since.
            logger.info("response not recalled", extra={"response_id": name, "reason": str(error)})
            continue
        memory.remember(
            name,
            conversation,
            previous=call.request.get("previous_response_id") or None,
            asked=[item for _, item in asked],
            response=response_of(call),
        )


def response_of(call: CallRecord) -> Members:
    """Return the response that a client got, but for log-probabilities of its texts.

    Args:
        call: An answered call with a response id.
    """
    choice = call.choices[0]
    writer = ResponseWriter(call.response_id or "", call.request, call.model, lambda _: None)
    answer = {"message": choice.message, "finish_reason": choice.finish_reason}
    response = writer.whole({"choices": [answer], "usage": call.usage})
    response["created_at"] = int(call.start_time)
    if response["completed_at"] is not None:
        response["completed_at"] = int(call.end_time)
    return response
