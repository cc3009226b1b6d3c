"""Rollouts with captured calls in a store, made by hand for tests of readers."""

from collections.abc import Sequence
from typing import Any

from agentlightning._internal.ids import new_call_id
from agentlightning.runner.reward import reward_span
from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, CallChoice
from agentlightning.types.call import VersionSpan
from tests.support.spans import make_call

Turn = tuple[list[dict[str, Any]], dict[str, Any]]
"""What was asked, and what was answered."""


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **members: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **members}


async def add_rollout(
    store: LightningStore,
    turns: Sequence[Turn],
    *,
    task: Any = "task",
    reward: float | None = None,
    status: str | None = "succeeded",
    mode: Any = "train",
    metadata: dict[str, Any] | None = None,
    tools: list[dict[str, Any]] | None = None,
    role: str | None = None,
) -> AttemptedRollout:
    """Store a rollout with one call per turn; a status of None leaves it under way."""
    rollout = await store.start_rollout(task, mode, metadata=metadata)
    attempt = rollout.attempt
    spans = [
        make_call(
            new_call_id(),
            start=number,
            end=number + 0.5,
            rollout_id=rollout.rollout_id,
            attempt_id=attempt.attempt_id,
            response_id=f"resp-{attempt.attempt_id}-{number}",
            request={"messages": prompt, **({"tools": tools} if tools else {})},
            choices=[
                CallChoice(
                    message=answer,
                    token_ids=[1],
                    versions=[VersionSpan(start=0, length=1, version=7)],
                )
            ],
            role=role,
        ).to_span()
        for number, (prompt, answer) in enumerate(turns)
    ]
    if reward is not None:
        spans.append(reward_span({"primary": reward, "style": 0.5}, attempt))
    await store.add_many_spans(spans)
    if status is not None:
        await store.update_attempt(rollout.rollout_id, attempt.attempt_id, status=status)
    return rollout
