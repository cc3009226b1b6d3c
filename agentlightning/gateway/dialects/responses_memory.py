"""The responses that translated calls gave, so that clients may go on from one by its id.

Model servers of chat completions remember nothing, and clients that send `previous_response_id` or
references to items rely on a server that does. Bounded; belongs to one event loop. What is not
here may still be in the store, see `recall`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.jsontext import write_json

__all__ = ["ResponseMemory"]

_MOST_BYTES = 128 * 2**20
_MOST_RESPONSES = 100_000


@dataclass(slots=True, kw_only=True)
class _Response:
    conversation: str | None
    previous: str | None
    items: list[Members]
    response: Members
    output_ids: list[str]
    size: int
    is_deleted: bool = False


class ResponseMemory:
    """Responses by id; those unused for longest are forgotten past a bound.

    A response is known to the attempt that got it, and to no other.

    Args:
        most_bytes: Of all items, as JSON.
        most_responses: How many are kept.
    """

    def __init__(
        self, most_bytes: int = _MOST_BYTES, most_responses: int = _MOST_RESPONSES
    ) -> None:
        self._most_bytes = most_bytes
        self._most_responses = most_responses
        self._responses: OrderedDict[str, _Response] = OrderedDict()
        self._items: dict[str, tuple[str | None, Members]] = {}
        """Conversation and item by the item's id."""
        self._bytes = 0

    def remember(
        self,
        response_id: str,
        conversation: str | None,
        *,
        previous: str | None,
        asked: list[Members],
        response: Members,
    ) -> None:
        """Keep a response.

        Args:
            response_id: Of this response.
            conversation: Names the attempt that got it.
            previous: The response that it went on from; a known one.
            asked: The items of its request.
            response: What the client got.
        """
        output: list[Members] = response["output"]
        items = [*asked, *output]
        ids = [item["id"] for item in output if item.get("id")]
        self._responses[response_id] = kept = _Response(
            conversation=conversation,
            previous=previous,
            items=items,
            response=response,
            output_ids=ids,
            size=len(write_json([asked, response])),
        )
        self._items.update((item["id"], (conversation, item)) for item in output if item.get("id"))
        self._bytes += kept.size
        while self._bytes > self._most_bytes or len(self._responses) > self._most_responses:
            self._forget_oldest()

    def history(self, response_id: str, conversation: str | None) -> list[Members] | None:
        """Return all items up to the end of a response, or None where it is not known."""
        if self.response(response_id, conversation) is None:
            return None
        chain: list[_Response] = []
        at: str | None = response_id
        while at is not None:
            response = self._responses.get(at)
            if response is None or response.conversation != conversation:
                return None
            # What others go on from is moved last, and so never forgotten before them.
            self._responses.move_to_end(at)
            chain.append(response)
            at = response.previous
        return [item for response in reversed(chain) for item in response.items]

    def response(self, response_id: str, conversation: str | None) -> Members | None:
        """Return a response as the client got it, or None where it is not known."""
        found = self._responses.get(response_id)
        if found is None or found.is_deleted or found.conversation != conversation:
            return None
        return found.response

    def has_seen(self, response_id: str) -> bool:
        """Return whether a response is kept, or was deleted and is kept for others to go on from."""
        return response_id in self._responses

    def delete(self, response_id: str, conversation: str | None) -> None:
        """Give a response to nobody any more; those that went on from it stay whole."""
        found = self._responses.get(response_id)
        if found is not None and found.conversation == conversation:
            found.is_deleted = True
            for name in found.output_ids:
                self._items.pop(name, None)

    def item(self, item_id: str, conversation: str | None) -> Members | None:
        """Return an output item, or None where it is not known."""
        owner, item = self._items.get(item_id, (None, None))
        return item if owner == conversation else None

    def _forget_oldest(self) -> None:
        _, response = self._responses.popitem(last=False)
        self._bytes -= response.size
        for name in response.output_ids:
            self._items.pop(name, None)
