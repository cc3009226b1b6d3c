"""When a dead worker is started again, and when it has died too often. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CrashCount", "RestartPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How crashes of one worker are answered; times are seconds."""

    crash_budget: int = 5
    """Crashes in a row that are answered by a new start; one more ends the run."""
    healthy_seconds: float = 60.0
    """A worker that lived this long ends the row."""
    first_delay_seconds: float = 0.1
    """Wait before the first new start; it doubles with each crash of the row."""
    longest_delay_seconds: float = 10.0


@dataclass(slots=True)
class CrashCount:
    """The row of crashes of one worker."""

    policy: RestartPolicy
    crashes: int = 0

    def crashed(self, lived_seconds: float) -> float | None:
        """Count a crash and return how long to wait before the next start; None for never.

        Example:
            >>> count = CrashCount(RestartPolicy(crash_budget=2))
            >>> [count.crashed(lived_seconds=1.0) for _ in range(3)]
            [0.1, 0.2, None]
        """
        if lived_seconds >= self.policy.healthy_seconds:
            self.crashes = 0
        self.crashes += 1
        if self.crashes > self.policy.crash_budget:
            return None
        delay = self.policy.first_delay_seconds * 2 ** (self.crashes - 1)
        return min(delay, self.policy.longest_delay_seconds)
