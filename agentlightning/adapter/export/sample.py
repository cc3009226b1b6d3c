"""One transcript of one rollout, with everything a data set may say about where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter.base import in_time
from agentlightning.adapter.chat_call import ChatCall, find_chat_calls
from agentlightning.adapter.content import Members
from agentlightning.adapter.conversation import continued_calls, last_calls
from agentlightning.adapter.rewards import (
    find_final_reward,
    find_reward_spans,
    get_rewards_from_span,
)
from agentlightning.types.rollout import Attempt, Rollout
from agentlightning.types.tracer import Span

__all__ = ["Sample", "group_of", "samples_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A conversation, or one call of it, that ends with an answer of the model."""

    messages: list[Members]
    """Valid chat messages; assistant messages may have `reasoning_content` besides."""
    sampled: tuple[int, ...]
    """Places of the messages that the model said in this rollout, the last one included; other
    assistant messages are examples in the prompt, or were changed by the agent since.
    """
    tools: list[Members] | None
    rollout_id: str
    attempt_id: str
    span_id: str
    """Of the call that gave the last answer."""
    group_id: str
    """Rollouts with the same one worked on the same task."""
    task: Any
    mode: str | None
    status: str
    reward: float | None
    rewards: dict[str, float]
    """All dimensions of the reward, the primary one first."""
    agent: str | None
    model: str | None
    weight_versions: tuple[int, ...]

    @property
    def prompt(self) -> list[Members]:
        """What stood before the first thing that the model said."""
        return self.messages[: self.sampled[0]]

    @property
    def completion(self) -> list[Members]:
        """All from the first thing that the model said, with what tools and users said since."""
        return self.messages[self.sampled[0] :]

    def provenance(self) -> dict[str, Any]:
        """Return the columns that say where the sample comes from."""
        return {
            "rollout_id": self.rollout_id,
            "attempt_id": self.attempt_id,
            "span_id": self.span_id,
            "group_id": self.group_id,
            "mode": self.mode,
            "status": self.status,
            "reward": self.reward,
            "agent": self.agent,
            "model": self.model,
            "weight_version": self.weight_versions[-1] if self.weight_versions else None,
        }


def group_of(rollout: Rollout) -> str:
    """Return what rollouts of one task share: `group_id` of the metadata, or the task itself.

    Example:
        >>> first = Rollout(rollout_id="a", input={"q": 1}, start_time=0.0)
        >>> group_of(first) == group_of(first.model_copy(update={"rollout_id": "b"}))
        True
    """
    named = (rollout.metadata or {}).get("group_id")
    if named is not None:
        return str(named)
    task = json.dumps(rollout.input, sort_keys=True, default=str)
    return "task-" + hashlib.sha256(task.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def samples_of(
    rollout: Rollout, attempt: Attempt, spans: Sequence[Span], *, per_call: bool = False
) -> list[Sample]:
    """Return the samples of one attempt, in the order of its calls.

    What arrived after the attempt had ended plays no part.

    Args:
        rollout: The rollout.
        attempt: Its attempt that counts.
        spans: The attempt's spans.
        per_call: One sample per answer instead of one per conversation; the earlier answers are
            then part of the prompt.
    """
    kept = in_time(spans)
    calls = find_chat_calls(kept, reasoning=True)
    chosen = calls if per_call else last_calls(calls)
    earlier = {} if per_call else continued_calls(calls)
    rewards: dict[str, float] = {}
    for span in find_reward_spans(kept)[-1:]:
        rewards = {each.name: each.value for each in get_rewards_from_span(span)}
    places = {id(call): place for place, call in enumerate(calls)}
    return [
        Sample(
            messages=call.messages,
            sampled=_sampled(call, earlier.get(places[id(call)], [])),
            tools=call.tools,
            rollout_id=rollout.rollout_id,
            attempt_id=attempt.attempt_id,
            span_id=call.span_id,
            group_id=group_of(rollout),
            task=rollout.input,
            mode=rollout.mode,
            status=rollout.status,
            reward=find_final_reward(kept),
            rewards=rewards,
            agent=call.agent,
            model=call.model,
            weight_versions=call.weight_versions,
        )
        for call in chosen
    ]


def _sampled(call: ChatCall, earlier: Sequence[ChatCall]) -> tuple[int, ...]:
    return tuple(sorted({len(each.messages) - 1 for each in (*earlier, call)}))
