"""What calls to a model cost in money. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from agentlightning.errors import ConfigurationError
from agentlightning.types.call import CallRecord

__all__ = ["TokenPrice"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """Prices of a model's tokens, per million, in whatever currency the budget is in."""

    input: float
    """Of prompts."""
    output: float
    """Of answers, thoughts included."""
    cached_input: float | None = None
    """Of the part of prompts that came from the server's cache; None for the price of `input`."""

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached_input or 0.0) < 0:
            raise ConfigurationError(f"{self} has a price below 0. Give prices per million tokens.")

    def cost_of(self, record: CallRecord) -> float:
        """Return what a call cost: by its server's usage, or else by the ids that were recorded.

        A call that says neither (a stream whose client did not ask for usage) costs nothing.

        Example:
            >>> usage = {"prompt_tokens": 2000, "completion_tokens": 100}
            >>> call = CallRecord(
            ...     call_id="c", rollout_id="r", attempt_id="a", usage=usage, start_time=0, end_time=1
            ... )
            >>> TokenPrice(input=2.5, output=10.0).cost_of(call)
            0.006
        """
        usage = record.usage
        prompt = _count(usage, "prompt_tokens") or len(record.prompt_token_ids)
        sampled = sum(len(choice.token_ids) for choice in record.choices)
        output = _count(usage, "completion_tokens") or sampled
        details = usage.get("prompt_tokens_details")
        kept = cast("dict[str, Any]", details) if isinstance(details, dict) else {}
        cached = min(_count(kept, "cached_tokens"), prompt)
        cached_price = self.input if self.cached_input is None else self.cached_input
        spent = (prompt - cached) * self.input + cached * cached_price + output * self.output
        return spent / _MILLION

    def output_for(self, money: float) -> int | None:
        """Return how many tokens of an answer an amount pays for; None for any number."""
        return int(money / self.output * _MILLION) if self.output else None


def _count(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    return value if isinstance(value, int) else 0
