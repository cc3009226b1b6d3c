"""What the calls of one attempt may cost in all, and what they have cost so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentlightning.errors import BudgetExceededError, ConfigurationError
from agentlightning.types.call import CallRecord

__all__ = ["CallBudget", "Spending", "tokens_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBudget:
    """Limits for all calls of one attempt, to whatever model; None sets none.

    A call is refused once a limit is reached; a call under way is not cut short, so that the last
    one may go past the limit on tokens or seconds. Repeats of a failed call count as calls.
    """

    calls: int | None = None
    tokens: int | None = None
    """Of prompts and answers together, as the model server counts them."""
    seconds: float | None = None
    """From the attempt's first call on."""

    def __post_init__(self) -> None:
        given = [limit for limit in (self.calls, self.tokens, self.seconds) if limit is not None]
        if any(limit <= 0 for limit in given):
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
        since = now if spent.since is None else spent.since
        if self.seconds is not None and now - since >= self.seconds:
            raise BudgetExceededError(_refusal(f"{self.seconds:g} seconds"))


@dataclass(slots=True)
class Spending:
    """What the calls of one attempt have cost."""

    calls: int = 0
    """Those that were let pass."""
    tokens: int = 0
    since: float | None = None
    """When the first of them began, in unix seconds."""

    def admit(self, *, now: float) -> None:
        """Count a call that is let pass."""
        self.calls += 1
        if self.since is None:
            self.since = now


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
