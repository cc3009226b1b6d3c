"""What the calls of one attempt may cost in all, and what they have cost so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentlightning.errors import BudgetExceededError, ConfigurationError
from agentlightning.gateway.price import TokenPrice
from agentlightning.types.call import CallRecord

__all__ = ["CallBudget", "Spending", "tokens_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBudget:
    """Limits for all calls of one attempt, to whatever model; None sets none.

    A call is refused once a limit is reached; a call under way is not cut short, so that the last
    one may go past the limit on tokens, cost or seconds. Repeats of a failed call count as calls.
    """

    calls: int | None = None
    tokens: int | None = None
    """Of prompts and answers together, as the model server counts them."""
    seconds: float | None = None
    """From the attempt's first call on."""
    cost: float | None = None
    """In money, by `ModelRoute.price`; calls to models without a price cost nothing."""
    when_short: Literal["refuse", "shrink"] = "refuse"
    """What becomes of a call that asks for more than there is left. `refuse`: it is made as it
    is, and the next is refused; one too long for the model's context gets the server's error.
    `shrink`: its longest answer (`max_tokens`) is lowered to what tokens and cost leave, and to
    what the model's context leaves beside the prompt where the server says so in its error."""

    def __post_init__(self) -> None:
        limits = (self.calls, self.tokens, self.seconds, self.cost)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise ConfigurationError(f"{self} leaves no call to make. Use limits above 0, or None.")

    def check(self, spent: Spending, *, now: float) -> None:
        """Let a call pass, or refuse it.

        Args:
            spent: By the attempt's calls before it.
            now: Unix seconds.

        Raises:
            BudgetExceededError: A limit is reached; the message says which.

        Example:
            >>> CallBudget(calls=2).check(Spending(calls=1), now=0.0)
        """
        if self.calls is not None and spent.calls >= self.calls:
            raise BudgetExceededError(_refusal(f"{self.calls} calls"))
        if self.tokens is not None and spent.tokens >= self.tokens:
            raise BudgetExceededError(_refusal(f"{self.tokens} tokens ({spent.tokens} used)"))
        if self.cost is not None and spent.cost >= self.cost:
            raise BudgetExceededError(_refusal(f"{self.cost:g} in cost ({spent.cost:.6g} used)"))
        since = now if spent.since is None else spent.since
        if self.seconds is not None and now - since >= self.seconds:
            raise BudgetExceededError(_refusal(f"{self.seconds:g} seconds"))

    def longest_answer(self, spent: Spending, price: TokenPrice | None) -> int | None:
        """Return how many tokens the answer of a call may have at most; None for any number.

        The prompt, whose length nobody knows before, is not taken off.

        Args:
            spent: By the attempt's calls before it.
            price: Of the model that it goes to.

        Example:
            >>> CallBudget(tokens=100).longest_answer(Spending(tokens=70), None)
            30
        """
        tokens = None if self.tokens is None else self.tokens - spent.tokens
        paid = None
        if self.cost is not None and price is not None:
            paid = price.output_for(self.cost - spent.cost)
        known = [max(1, limit) for limit in (tokens, paid) if limit is not None]
        return min(known, default=None)


@dataclass(slots=True)
class Spending:
    """What the calls of one attempt have cost."""

    calls: int = 0
    """Those that were let pass."""
    tokens: int = 0
    cost: float = 0.0
    """In money."""
    since: float | None = None
    """When the first of them began, in unix seconds."""

    def admit(self, *, now: float) -> None:
        """Count a call that is let pass."""
        self.calls += 1
        if self.since is None:
            self.since = now

    def charge(self, record: CallRecord, price: TokenPrice | None) -> None:
        """Count what a call took, once it has ended."""
        self.tokens += tokens_of(record)
        if price is not None:
            self.cost += price.cost_of(record)


def tokens_of(record: CallRecord) -> int:
    """Return how many tokens a call took: its ids, or else what its server says it used."""
    ids = len(record.prompt_token_ids) + sum(len(choice.token_ids) for choice in record.choices)
    if ids:
        return ids
    said = record.usage.get("total_tokens")
    return said if isinstance(said, int) else 0


def _refusal(limit: str) -> str:
    return (
        f"This rollout's budget of {limit} is used up, so the call was not made. "
        "End the rollout with what you have, or raise the budget."
    )
