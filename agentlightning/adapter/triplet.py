"""Spans to triplets: one per model call, with prompt, answer and reward."""

from collections.abc import Sequence

from agentlightning.adapter.base import TraceAdapter, own_spans
from agentlightning.adapter.matching import RewardMatchPolicy
from agentlightning.adapter.proxy_triplet import LlmProxyTraceToTriplet, TraceToTripletBase
from agentlightning.adapter.tree import DEFAULT_LLM_CALL, TraceTree
from agentlightning.types.rollout import Triplet
from agentlightning.types.tracer import SpanLike

__all__ = [
    "LlmProxyTraceToTriplet",
    "RewardMatchPolicy",
    "TraceAdapter",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
]


class TracerTraceToTriplet(TraceToTripletBase):
    """Builds triplets from the spans of a tracer and of the gateway.

    Calls that the gateway marked as untrained (judges) or that failed make no triplet.

    Args:
        repair_hierarchy: Whether spans that lost their parent are put under the span that
            encloses them in time.
        llm_call_match: Regular expression for the names of model calls; the gateway's calls are
            recognised anyway.
        agent_match: Regular expression for agent labels; None takes every agent.
        exclude_llm_call_in_reward: Whether calls made to compute a reward are left out.
        reward_match: How rewards find their calls.
        _skip_empty_token_spans: Whether calls without token ids are left out.
    """

    def __init__(
        self,
        repair_hierarchy: bool = True,
        llm_call_match: str = DEFAULT_LLM_CALL,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        _skip_empty_token_spans: bool = False,
    ) -> None:
        self.repair_hierarchy = repair_hierarchy
        self.llm_call_match = llm_call_match
        self.agent_match = agent_match
        self.exclude_llm_call_in_reward = exclude_llm_call_in_reward
        self.reward_match = reward_match
        self._skip_empty_token_spans = _skip_empty_token_spans

    def _tree(self, source: Sequence[SpanLike]) -> TraceTree:
        tree = TraceTree.from_spans(own_spans(source))
        if self.repair_hierarchy:
            tree.repair_hierarchy()
        return tree

    def visualize(
        self,
        source: Sequence[SpanLike],
        /,
        filename: str = "trace_tree",
        interested_span_match: str | None = None,
    ) -> TraceTree:
        """Draw the tree to `<filename>.png` and return it.

        Raises:
            ConfigurationError: There are no spans, or Graphviz is not installed.
        """
        tree = self._tree(source)
        tree.visualize(filename, interested_span_match)
        return tree

    def adapt(self, source: Sequence[SpanLike], /) -> list[Triplet]:
        """Return the triplets of one attempt.

        Raises:
            ConfigurationError: There are no spans.
        """
        return self._tree(source).to_trajectory(
            llm_call_match=self.llm_call_match,
            agent_match=self.agent_match,
            exclude_llm_call_in_reward=self.exclude_llm_call_in_reward,
            reward_match=self.reward_match,
            _skip_empty_token_spans=self._skip_empty_token_spans,
        )
