"""One captured model call: the exact tokens, and everything needed to learn from them."""

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from agentlightning._internal.ids import attempt_trace_id, new_span_id
from agentlightning.semconv import CallAttributes
from agentlightning.types.tracer import Attributes, Span, TraceStatus

CALL_SPAN_NAMES = {
    "openai.chat": "openai.chat.completion",
    "openai.completions": "openai.completion",
    "openai.responses": "openai.response",
    "anthropic.messages": "anthropic.message",
}
"""Span name per dialect; readers recognise calls by `CallAttributes.RECORD`, not by name."""

CallOutcome = Literal["ok", "error", "cancelled"]
_IN_OWN_KEYS = frozenset({"rollout_id", "attempt_id", "prompt_token_ids"})


class VersionSpan(BaseModel):
    """A run of sampled tokens that one version of the weights produced."""

    start: int
    """Index of the first token within the choice."""
    length: int
    version: int


class CallChoice(BaseModel):
    """One completion of a call."""

    index: int = 0
    message: dict[str, Any] | None = None
    """The assistant message as the client received it, in the shape of chat completions; what it
    thought is in `reasoning_content`, whatever the server calls it."""
    prompt_token_ids: list[int] | None = None
    """Ids of this choice's own prompt, in a completions request with several prompts; None where
    it is the call's, and empty where the upstream did not tell it."""
    token_ids: list[int] = Field(default_factory=list[int])
    """Sampled ids, the end-of-sequence id included; empty when the upstream gave none."""
    logprobs: list[float] = Field(default_factory=list[float])
    """Natural-log probability of each sampled id under the distribution it was drawn from;
    empty when the upstream gave none."""
    versions: list[VersionSpan] = Field(default_factory=list[VersionSpan])
    finish_reason: str | None = None


class CallRecord(BaseModel):
    """One model call of one attempt, as the gateway saw it; times are unix seconds."""

    call_id: str
    rollout_id: str
    attempt_id: str
    dialect: str = "openai.chat"
    model: str = ""
    role: str | None = None
    """Name of the agent that made the call, where a rollout has several."""
    trained: bool = True
    """False for judges and helper models: their tokens never get a gradient."""
    stream: bool = False
    request: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The body that the client sent."""
    chat_request: dict[str, Any] | None = None
    """The same in the shape of chat completions, where the client spoke another format."""
    response_id: str | None = None
    prompt_token_ids: list[int] = Field(default_factory=list[int])
    choices: list[CallChoice] = Field(default_factory=list[CallChoice])
    usage: dict[str, Any] = Field(default_factory=dict[str, Any])
    start_time: float
    end_time: float
    outcome: CallOutcome = "ok"
    http_status: int | None = None
    """Status of the upstream's answer; None when there was none."""
    error: str | None = None
    """What went wrong, when `outcome` is not `ok`."""
    error_code: str | None = None
    """The same in one word, whichever server said it in whose: `context_length_exceeded`,
    `budget_exceeded`, `rate_limited`, `timeout`, `upstream_error`, `invalid_request_error`, `client_gone`, …"""
    retry: int = 0
    """Which repeat of a failed call this is, where the client counts them
    (`x-stainless-retry-count`)."""
    idempotency_key: str | None = None
    """The client's name for what it asks, the same for all its repeats."""
    trace_id: str | None = None
    """Trace and parent span that the client announced (`traceparent`), if any."""
    parent_span_id: str | None = None

    @property
    def missing(self) -> list[str]:
        """Return what this call lacks for training, because its server did not say it.

        Of `prompt_token_ids`, `token_ids` and `logprobs`; empty for a call without an answer.
        """
        if not self.choices:
            return []
        said = {
            "prompt_token_ids": all(part.prompt_token_ids for part in self.by_prompt()),
            "token_ids": all(choice.token_ids for choice in self.choices),
            "logprobs": all(choice.logprobs for choice in self.choices),
        }
        return [name for name, is_said in said.items() if not is_said]

    def by_prompt(self) -> "list[CallRecord]":
        """Return a record for each prompt of this call, with the choices that answer it.

        That is this record alone, unless choices have prompts of their own.
        """
        if all(choice.prompt_token_ids is None for choice in self.choices):
            return [self]
        groups: dict[tuple[int, ...], list[CallChoice]] = {}
        for choice in self.choices:
            own = choice.prompt_token_ids
            ids = self.prompt_token_ids if own is None else own
            groups.setdefault(tuple(ids), []).append(choice)
        return [
            self.model_copy(update={"prompt_token_ids": list(ids), "choices": choices})
            for ids, choices in groups.items()
        ]

    def to_span(self) -> Span:
        """Return the span that stores this call; `from_span` gives the record back."""
        first = self.choices[0] if self.choices else CallChoice()
        attributes: Attributes = {
            CallAttributes.RECORD.value: self.model_dump_json(exclude=set(_IN_OWN_KEYS)),
            CallAttributes.REQUEST_MODEL.value: self.model,
            CallAttributes.PROMPT_TOKEN_IDS.value: self.prompt_token_ids,
            CallAttributes.RESPONSE_TOKEN_IDS.value: first.token_ids,
            CallAttributes.INPUT_TOKENS.value: sum(
                len(part.prompt_token_ids) for part in self.by_prompt()
            ),
            CallAttributes.OUTPUT_TOKENS.value: sum(len(c.token_ids) for c in self.choices),
        }
        if self.response_id:
            attributes[CallAttributes.RESPONSE_ID.value] = self.response_id
        if self.missing:
            attributes[CallAttributes.MISSING.value] = self.missing
        if self.role:
            attributes[CallAttributes.AGENT_NAME.value] = self.role
        ok = self.outcome == "ok"
        span = Span.from_attributes(
            attributes={},
            rollout_id=self.rollout_id,
            attempt_id=self.attempt_id,
            name=CALL_SPAN_NAMES.get(self.dialect, self.dialect),
            trace_id=self.trace_id or attempt_trace_id(self.rollout_id, self.attempt_id),
            span_id=self.call_id.removeprefix("ca-")[:16] or new_span_id(),
            parent_id=self.parent_span_id,
            start_time=self.start_time,
            end_time=self.end_time,
            status=TraceStatus(status_code="OK" if ok else "ERROR", description=self.error),
        )
        # Perf: they are of the right types already; validating 8,000 ids again takes 5 ms.
        span.attributes = attributes
        return span

    @classmethod
    def from_span(cls, span: Span) -> "CallRecord | None":
        """Return the call that a span stores, or None when it stores none."""
        raw = span.attributes.get(CallAttributes.RECORD.value)
        if not isinstance(raw, str):
            return None
        fields = json.loads(raw)
        fields.update(
            rollout_id=span.rollout_id,
            attempt_id=span.attempt_id,
            prompt_token_ids=span.attributes.get(CallAttributes.PROMPT_TOKEN_IDS.value, []),
        )
        return cls.model_validate(fields)
