"""The responses that translated calls gave, so that clients may go on from one by its id.

Model servers of chat completions remember nothing, and clients that send `previous_response_id` or
references to items rely on a server that does. Bounded; belongs to one event loop.
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
    output_ids: list[str]
    size: int


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
        output: list[Members],
    ) -> None:
        """Keep a response.

        Args:
            response_id: Of this response.
            conversation: Names the attempt that got it.
            previous: The response that it went on from; a known one.
            asked: The items of its request.
            output: The items that it answered with.
        """
        items = [*asked, *output]
        ids = [item["id"] for item in output if item.get("id")]
        self._responses[response_id] = response = _Response(
            conversation=conversation,
            previous=previous,
            items=items,
            output_ids=ids,
            size=len(write_json(items)),
        )
        self._items.update((item["id"], (conversation, item)) for item in output if item.get("id"))
        self._bytes += response.size
        while self._bytes > self._most_bytes or len(self._responses) > self._most_responses:
            self._forget_oldest()

    def history(self, response_id: str, conversation: str | None) -> list[Members] | None:
        """Return all items up to the end of a response, or None where it is not known."""
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

    def item(self, item_id: str, conversation: str | None) -> Members | None:
        """Return an output item, or None where it is not known."""
        owner, item = self._items.get(item_id, (None, None))
        return item if owner == conversation else None

    def _forget_oldest(self) -> None:
        _, response = self._responses.popitem(last=False)
        self._bytes -= response.size
        for name in response.output_ids:
            del self._items[name]
