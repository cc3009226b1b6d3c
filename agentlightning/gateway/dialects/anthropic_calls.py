"""The tool calls of a chat stream as Anthropic's blocks: one after another, told as they come.

Chunks of chat completions may go back and forth between calls, which Anthropic's blocks may not.
"""

from __future__ import annotations

from typing import Any, Literal

from agentlightning.gateway.dialects.anthropic_blocks import INVALID_JSON
from agentlightning.gateway.dialects.json_object import GrowingObject
from agentlightning.gateway.dialects.request_check import Members

__all__ = ["Step", "StreamedCalls"]

Step = tuple[Literal["begin"], Members] | tuple[Literal["input"], str] | tuple[Literal["end"], str]
"""A call that begins (with `id` and `name`), a piece of its arguments, or the last one."""


class StreamedCalls:
    """Tells what is certain of the calls so far; serves one answer.

    A call is told while it comes if those before it have ended. The others wait, to be told whole.
    """

    def __init__(self) -> None:
        self.begun = 0
        """How many calls were begun: these are the first ones of the answer."""
        self._input: GrowingObject | None = None
        """Arguments of the call that is begun and not ended."""
        self._waiting: dict[int, Members] = {}
        self._is_in_order = True

    @property
    def is_open(self) -> bool:
        """Return whether a call is begun and not ended."""
        return self._input is not None

    def take(self, piece: Members) -> list[Step]:
        """Take a chunk's part of a call and return what can be told now."""
        at = piece.get("index")
        function: Members = piece.get("function") or {}
        said: Any = function.get("arguments") or ""
        if not isinstance(at, int) or not isinstance(said, str):
            # A server that does not number its calls sends them whole; they are told at the end.
            self._is_in_order = False
            return []
        if self._input is not None and at == self.begun - 1:
            passed = self._input.feed(said)
            return [("input", passed)] if passed else []
        call = self._waiting.setdefault(at, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.get("id") or ""
        call["name"] = call["name"] or function.get("name") or ""
        call["arguments"] += said
        return self._begin_waiting()

    def end_whole(self) -> list[Step]:
        """End the call that is begun if nothing is missing of its arguments."""
        return self.end() if self._input is not None and self._input.is_whole else []

    def end(self) -> list[Step]:
        """End the call that is begun, whatever is missing."""
        if self._input is None:
            return []
        last = self._input.end()
        self._input = None
        return [("end", last)]

    def _begin_waiting(self) -> list[Step]:
        steps: list[Step] = []
        while self._is_in_order and self._waiting.get(self.begun, {}).get("name"):
            if self._input is not None and not self._input.is_whole:
                break
            steps += self.end()
            call = self._waiting.pop(self.begun)
            name = {"id": call["id"] or f"call_{self.begun}", "name": call["name"]}
            self.begun += 1
            self._input = GrowingObject(INVALID_JSON)
            steps.append(("begin", name))
            if passed := self._input.feed(call["arguments"]):
                steps.append(("input", passed))
        return steps
