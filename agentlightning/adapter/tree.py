"""The trace tree: spans of one attempt by parent, with model calls and rewards found in it."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from agentlightning.adapter import forest
from agentlightning.adapter.call_spans import one_per_call
from agentlightning.adapter.call_triplet import call_to_triplet
from agentlightning.adapter.calls import read_call
from agentlightning.adapter.graph import draw_tree
from agentlightning.adapter.labels import agent_label
from agentlightning.adapter.llm_span import (
    image_urls,
    is_llm_call,
    is_record,
    is_trainable,
    response_id,
    to_triplet,
)
from agentlightning.adapter.matching import Moment, RewardMatchPolicy, match_rewards
from agentlightning.adapter.rewards import get_reward_value
from agentlightning.adapter.targets import ExplicitRewards, explicit_rewards
from agentlightning.semconv import AGL_OPERATION, AGL_REWARD, LightningSpanAttributes
from agentlightning.types.rollout import Triplet
from agentlightning.types.tracer import Span

__all__ = ["TraceTree"]

DEFAULT_LLM_CALL = r"openai\.chat\.completion"


class TraceTree:
    """One span and the trees below it. Override `span_to_triplet` to read calls differently."""

    def __init__(self, id: str, span: Span, children: "list[TraceTree] | None" = None) -> None:
        self.id = id
        self.span = span
        self.children = children or []

    @property
    def start_time(self) -> float | None:
        """Unix seconds."""
        return self.span.start_time

    @property
    def end_time(self) -> float | None:
        """Unix seconds."""
        return self.span.end_time

    @classmethod
    def from_spans(cls, spans: Sequence[Span]) -> "TraceTree":
        """Build the tree; absent parents are made up, and so is a root over several roots.

        Raises:
            ConfigurationError: There are no spans.
        """
        by_id, children, root = forest.arrange(spans)
        nodes = {span_id: cls(span_id, span) for span_id, span in by_id.items()}
        for parent_id, child_ids in children.items():
            nodes[parent_id].children = [nodes[child_id] for child_id in child_ids]
        return nodes[root]

    def traverse(self) -> "list[TraceTree]":
        """Return this node and all below it, parents before children."""
        return [node for node, _ in self.walk()]

    def walk(self) -> "Iterator[tuple[TraceTree, TraceTree | None]]":
        """Yield this node and all below it, each with its parent, parents first."""
        stack: list[tuple[TraceTree, TraceTree | None]] = [(self, None)]
        while stack:
            node, parent = stack.pop()
            yield node, parent
            stack.extend((child, node) for child in reversed(node.children))

    def find_id(self, id: str) -> "TraceTree | None":
        """Return the node with this id, or None."""
        return next((node for node, _ in self.walk() if node.id == id), None)

    def add_child(self, child: "TraceTree") -> None:
        """Append a child."""
        self.children.append(child)

    def names_tuple(self) -> tuple[str, list[Any]]:
        """Return the span's name and the same of each child: the shape of the tree, for tests."""
        shapes: dict[int, tuple[str, list[Any]]] = {}
        for node, parent in self.walk():
            shapes[id(node)] = (node.span.name, [])
            if parent is not None:
                shapes[id(parent)][1].append(shapes[id(node)])
        return shapes[id(self)]

    def to_json(self) -> dict[str, Any]:
        """Return the tree as nested JSON objects."""
        objects: dict[int, dict[str, Any]] = {}
        for node, parent in self.walk():
            own = {"id": node.id, "span": node.span.model_dump(mode="json"), "children": []}
            objects[id(node)] = own
            if parent is not None:
                objects[id(parent)]["children"].append(own)
        return objects[id(self)]

    def visualize(self, filename: str, interested_span_match: str | None = None) -> None:
        """Draw the tree to `<filename>.png` with Graphviz; see `graph.draw_tree`."""
        edges = [(n.span, p.span if p else None) for n, p in self.walk()]
        draw_tree(edges, filename, interested_span_match)

    def agent_name(self) -> str | None:
        """Return the agent that this span says it is, or None."""
        return agent_label(self.span)

    def maybe_reward_dict(self) -> dict[str, Any]:
        """Return `{"type": "reward", "value": …}`, or an empty dict when there is no reward."""
        value = get_reward_value(self.span)
        return {} if value is None else {"type": "reward", "value": value}

    def is_reward_span(self) -> bool:
        """Return whether the span carries a reward, or is an operation that computes one."""
        name = self.span.attributes.get(LightningSpanAttributes.OPERATION_NAME.value)
        computes = self.span.name == AGL_OPERATION and name == AGL_REWARD
        return computes or bool(self.maybe_reward_dict())

    def find_llm_calls(
        self,
        *,
        llm_call_match: str = DEFAULT_LLM_CALL,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        dedup_llm_call: bool = True,
    ) -> "list[tuple[TraceTree, str]]":
        """Return the model calls below, each with the label of its agent.

        A call is a span whose attributes say so (`llm_span.is_llm_call`), or one whose name
        matches where you gave a match of your own. Calls that the gateway says failed, or are a
        judge's, are left out. Of several spans of one call the gateway's counts, else the one
        that tells most (`call_spans.one_per_call`). A span without response id inside another
        call is a repetition of it and left out.

        Args:
            llm_call_match: Regular expression searched in the names of spans that say nothing
                of themselves; the default takes none of these.
            agent_match: Regular expression searched in agent labels; None takes every agent,
                labelled `*` where none is named.
            exclude_llm_call_in_reward: Whether calls made to compute a reward are left out.
            dedup_llm_call: Whether one call seen by several writers counts once.
        """
        found: list[tuple[TraceTree, str]] = []
        refused: set[str | None] = set()
        outside = "*" if agent_match is None else None
        stack: list[tuple[TraceTree, str | None, bool]] = [(self, outside, False)]
        while stack:
            node, label, in_call = stack.pop()
            if exclude_llm_call_in_reward and node.is_reward_span():
                continue
            named = node.agent_name()
            if named is not None:
                matches = agent_match is None or re.search(agent_match, named)
                label = named if matches else None
            trainable = is_trainable(node.span)
            if not trainable:
                refused.add(response_id(node.span))
            is_call = trainable and _is_call(node.span, llm_call_match)
            repeated = dedup_llm_call and in_call and response_id(node.span) is None
            if is_call and label is not None and not repeated:
                found.append((node, label))
            below = in_call or is_call
            stack.extend((child, label, below) for child in reversed(node.children))
        # A record speaks for itself: servers may give two calls the same id.
        refused.discard(None)
        found = [
            (call, label)
            for call, label in found
            if is_record(call.span) or response_id(call.span) not in refused
        ]
        if not dedup_llm_call:
            return found
        nodes = {call.id: call for call, _ in found}
        kept = one_per_call([(call.span, label) for call, label in found])
        return [(_telling(nodes[span.span_id], span), label) for span, label in kept]

    def repair_hierarchy(self) -> None:
        """Move spans that lost their parent under the span that encloses them in time.

        It descends while there is one child only; at the first node with several, each child
        goes under the span below that node which strictly encloses it with the least slack.
        """
        node = self
        while len(node.children) == 1:
            node = node.children[0]
        below = [descendant for descendant, _ in itertools.islice(node.walk(), 1, None)]
        parents = {child.id: parent for child, parent in node.walk() if parent is not None}
        nodes = {descendant.id: descendant for descendant in below}
        moves = forest.enclosing_spans([n.span for n in node.children], [n.span for n in below])
        for child in list(node.children):
            for candidate in moves.get(child.id, []):
                if not _is_below(nodes[candidate], child, parents):
                    node.children.remove(child)
                    nodes[candidate].add_child(child)
                    parents[child.id] = nodes[candidate]
                    break

    def match_rewards(
        self, reward_match: "RewardMatchPolicy | str", llm_calls: "list[TraceTree]"
    ) -> dict[str, float | None]:
        """Return the reward of each of these calls by id, None where there is none.

        Rewards with links go to the calls they name (see `targets.explicit_rewards`); the others
        are matched by time, as `reward_match` says, among the calls that are left.
        """
        explicit = self._explicit_rewards(llm_calls)
        call_ids = {call.id for call in llm_calls}
        open_ids = call_ids - explicit.by_call.keys()
        if RewardMatchPolicy(reward_match) is RewardMatchPolicy.FIRST_OCCURRENCE:
            groups = [self.traverse()]
        else:
            groups = [node.children for node in self.traverse()]
        rewards: dict[str, float | None] = dict.fromkeys(call_ids)
        for group in groups:
            waiting = (node for node in group if node.id not in explicit.used)
            moments = (_moment(node, node.id in open_ids) for node in waiting)
            rewards.update(match_rewards(moment for moment in moments if moment is not None))
        rewards.update(explicit.by_call)
        return rewards

    def _explicit_rewards(self, llm_calls: "list[TraceTree]") -> ExplicitRewards:
        ends = {call.id: call.end_time or call.start_time or 0.0 for call in llm_calls}
        spans: list[Span] = []
        parents: dict[str, str | None] = {}
        for node, parent in self.walk():
            spans.append(node.span)
            parents[node.id] = parent.id if parent else None
        return explicit_rewards(spans, ends, parents)

    def extract_prompt_image_urls(self, prompt_raw_content: Any) -> list[str]:
        """Return the URLs of the images in chat messages."""
        return image_urls(prompt_raw_content)

    def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
        """Return one call as a triplet without reward."""
        call = read_call(span)
        return to_triplet(span, agent_name) if call is None else call_to_triplet(call, agent_name)

    def to_trajectory(
        self,
        llm_call_match: str = DEFAULT_LLM_CALL,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        dedup_llm_call: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        final_reward: float | None = None,
        _skip_empty_token_spans: bool = False,
    ) -> list[Triplet]:
        """Return the calls as triplets with their rewards, in the order of the tree.

        Args:
            llm_call_match: See `find_llm_calls`, like the next three.
            agent_match: See there.
            exclude_llm_call_in_reward: See there.
            dedup_llm_call: See there.
            reward_match: How rewards find their calls.
            final_reward: Replaces the last triplet's reward.
            _skip_empty_token_spans: Whether calls without token ids are left out.
        """
        calls = self.find_llm_calls(
            llm_call_match=llm_call_match,
            agent_match=agent_match,
            exclude_llm_call_in_reward=exclude_llm_call_in_reward,
            dedup_llm_call=dedup_llm_call,
        )
        triplets = [(call.id, self.span_to_triplet(call.span, label)) for call, label in calls]
        if _skip_empty_token_spans:
            triplets = [
                (call_id, triplet)
                for call_id, triplet in triplets
                if triplet.prompt.get("token_ids") and triplet.response.get("token_ids")
            ]
        kept = {call_id for call_id, _ in triplets}
        rewards = self.match_rewards(reward_match, [call for call, _ in calls if call.id in kept])
        for call_id, triplet in triplets:
            triplet.reward = rewards[call_id]
        if final_reward is not None and triplets:
            triplets[-1][1].reward = final_reward
        return [triplet for _, triplet in triplets]


def _telling(node: TraceTree, span: Span) -> TraceTree:
    """Return the node, with what was added to its span from another writer's."""
    return node if span is node.span else type(node)(node.id, span, node.children)


def _is_call(span: Span, llm_call_match: str) -> bool:
    if is_llm_call(span):
        return True
    return llm_call_match != DEFAULT_LLM_CALL and bool(re.search(llm_call_match, span.name))


def _moment(node: TraceTree, is_call: bool) -> Moment | None:
    if is_call:
        ended = node.end_time if node.end_time is not None else node.start_time
        return Moment(node.id, ended) if ended is not None else None
    value = get_reward_value(node.span)
    if value is None or node.start_time is None:
        return None
    return Moment(node.id, node.start_time, value)


def _is_below(node: TraceTree, ancestor: TraceTree, parents: dict[str, TraceTree]) -> bool:
    current: TraceTree | None = node
    while current is not None:
        if current is ancestor:
            return True
        current = parents.get(current.id)
    return False
