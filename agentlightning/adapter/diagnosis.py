"""Why a rollout cannot be learnt from: what its trace holds, and what it lacks. Pure functions."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentlightning.adapter.calls import find_calls
from agentlightning.adapter.llm_span import read_llm_call
from agentlightning.adapter.rewards import is_reward_span
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span

__all__ = ["Lack", "TraceDiagnosis", "diagnose", "diagnose_calls"]

_NAMES_SHOWN = 5


class Lack(StrEnum):
    """What a rollout lacks for training."""

    NO_SPANS = "no_spans"
    NO_CALLS = "no_calls"
    """There are spans, but no model call among them."""
    NOT_CAPTURED = "not_captured"
    """Clients tell of model calls, but none went through the gateway, so nobody knows tokens."""
    ALL_FAILED = "all_failed"
    UNTRAINED = "untrained"
    """All calls went to models that are not trained, such as judges."""
    OTHER_AGENTS = "other_agents"
    """All calls are those of agents that are not selected for training."""
    NO_TOKEN_IDS = "no_token_ids"
    """The model server gave none."""
    NO_REWARD = "no_reward"


_ADVICE = {
    Lack.NO_SPANS: "Does the agent do anything inside its rollout, and does its tracer export?",
    Lack.NO_CALLS: "The agent must call the model at the endpoint of its `llm` resource.",
    Lack.NOT_CAPTURED: (
        "The agent must call the model at the endpoint of its `llm` resource, which is the "
        "gateway; set its base URL to that."
    ),
    Lack.ALL_FAILED: "Run the agent once with Trainer.dev() and fix the first error.",
    Lack.UNTRAINED: "Give the agent the model that is trained; see `ModelRoute.trained`.",
    Lack.OTHER_AGENTS: "Let `roles` match one of these names, or give the agents names.",
    Lack.NO_TOKEN_IDS: "Use a model server that returns token ids, such as vLLM or SGLang.",
    Lack.NO_REWARD: (
        "Return a number from the agent, call agentlightning.emit_reward(), or pass reward_fn= "
        "to the Trainer."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDiagnosis:
    """What the trace of one rollout holds, and what it lacks; counts are of this rollout."""

    lacks: tuple[Lack, ...]
    """At most one about calls, and `NO_REWARD`."""
    spans: int
    span_names: tuple[tuple[str, int], ...] = ()
    """The most frequent names with their counts."""
    calls: int = 0
    """Calls that the gateway captured."""
    client_calls: int = 0
    """Calls that clients told of, where the gateway captured none."""
    agents: tuple[str, ...] = ()
    """Roles, or else models, of the calls that were captured."""
    error: str | None = None
    """Of the last call that failed."""

    @property
    def lacks_calls(self) -> bool:
        """Return whether there is no call to train on."""
        return any(lack is not Lack.NO_REWARD for lack in self.lacks)

    def reason(self, lack: Lack) -> str:
        """Return in one sentence why something is lacking, with what there is instead."""
        match lack:
            case Lack.NO_SPANS:
                return "no spans seen"
            case Lack.NO_CALLS:
                return f"{self._seen()}, none of them a call through our gateway"
            case Lack.NOT_CAPTURED:
                return (
                    f"{self._seen()}, {self.client_calls} of them model calls, none of which went "
                    "through our gateway"
                )
            case Lack.ALL_FAILED:
                return f"every call failed ({self.calls}; the last with: {self.error})"
            case Lack.UNTRAINED:
                return f"only calls to models that are not trained ({', '.join(self.agents)})"
            case Lack.OTHER_AGENTS:
                return f"only calls of agents that are not selected ({', '.join(self.agents)})"
            case Lack.NO_TOKEN_IDS:
                return f"{self.calls} calls without token ids: the model server gave none"
            case Lack.NO_REWARD:
                return f"{self._seen()}, none of them a reward"

    def message(self) -> str:
        """Return every reason with what to do about it."""
        return "\n".join(f"{self.reason(lack)}. {_ADVICE[lack]}" for lack in self.lacks)

    def _seen(self) -> str:
        names = ", ".join(f"{name} x {n}" if n > 1 else name for name, n in self.span_names)
        return f"{self.spans} spans seen" + (f" ({names})" if names else "")


def diagnose(
    spans: Sequence[Span],
    *,
    agents: str | None = None,
    calls: Sequence[CallRecord] | None = None,
) -> TraceDiagnosis | None:
    """Return what a rollout's trace lacks, or None when it has a trainable call and a reward.

    Args:
        spans: All spans of its attempt.
        agents: Regular expression searched in the role, or else the model, of each call; None
            selects all. It is the `roles` of training.
        calls: What `find_calls` found in the spans, where it was asked already.
    """
    found = find_calls(spans) if calls is None else calls
    told = 0 if found else sum(read_llm_call(span) is not None for span in spans)
    return diagnose_calls(
        found,
        spans=len(spans),
        span_names=tuple(Counter(span.name for span in spans).most_common(_NAMES_SHOWN)),
        client_calls=told,
        has_reward=any(map(is_reward_span, spans)),
        agents=agents,
    )


def diagnose_calls(
    calls: Sequence[CallRecord],
    *,
    spans: int,
    span_names: tuple[tuple[str, int], ...] = (),
    client_calls: int = 0,
    has_reward: bool = True,
    agents: str | None = None,
) -> TraceDiagnosis | None:
    """Do what `diagnose` does, for calls that were read already."""
    lack = _lack_of_calls(calls, spans, client_calls, agents)
    lacks = [lack] if lack is not None else []
    if not has_reward:
        lacks.append(Lack.NO_REWARD)
    if not lacks:
        return None
    failed = [call for call in calls if call.outcome != "ok"]
    return TraceDiagnosis(
        lacks=tuple(lacks),
        spans=spans,
        span_names=span_names,
        calls=len(calls),
        client_calls=client_calls,
        agents=tuple(sorted({_name(call) for call in calls})),
        error=(failed[-1].error or failed[-1].outcome) if failed else None,
    )


def _lack_of_calls(
    calls: Iterable[CallRecord], spans: int, client_calls: int, agents: str | None
) -> Lack | None:
    """Return what stops every call: the last of the conditions that all calls fell at."""
    left = list(calls)
    if not left:
        if client_calls:
            return Lack.NOT_CAPTURED
        return Lack.NO_CALLS if spans else Lack.NO_SPANS
    left = [call for call in left if call.outcome == "ok"]
    if not left:
        return Lack.ALL_FAILED
    left = [call for call in left if call.trained]
    if not left:
        return Lack.UNTRAINED
    left = [call for call in left if agents is None or re.search(agents, _name(call))]
    if not left:
        return Lack.OTHER_AGENTS
    parts = itertools.chain.from_iterable(call.by_prompt() for call in left)
    has_ids = any(p.prompt_token_ids and any(c.token_ids for c in p.choices) for p in parts)
    return None if has_ids else Lack.NO_TOKEN_IDS


def _name(call: CallRecord) -> str:
    return call.role or call.model
