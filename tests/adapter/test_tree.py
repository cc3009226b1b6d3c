"""The trace tree finds calls, mends parents and gives out rewards."""

import pytest

from agentlightning.adapter.triplet import RewardMatchPolicy, TraceTree
from tests.support.spans import make_call, make_llm_span, make_reward_span, make_span


def ids_of(calls):
    return [(call.id, label) for call, label in calls]


def test_shape_and_order():
    """Children are ordered by start; names, ids and JSON follow the tree."""
    tree = TraceTree.from_spans(
        [make_span("r", name="root"), make_span("b", "r", start=2), make_span("a", "r", start=1)]
    )
    assert tree.names_tuple() == ("root", [("step", []), ("step", [])])
    assert [node.id for node in tree.traverse()] == ["r", "a", "b"]
    found = tree.find_id("b")
    assert found is not None
    assert found.span.span_id == "b"
    assert tree.find_id("nobody") is None
    assert [child["id"] for child in tree.to_json()["children"]] == ["a", "b"]


def test_deep_traces_do_not_hit_the_recursion_limit():
    """A chain of several thousand spans is walked, searched and printed."""
    spans = [make_span(f"s{n}", f"s{n - 1}" if n else None, start=n) for n in range(3000)]
    spans.append(make_llm_span("call", "s2999"))
    tree = TraceTree.from_spans(spans)
    assert len(tree.traverse()) == 3001
    assert ids_of(tree.find_llm_calls()) == [("call", "*")]
    tree.repair_hierarchy()
    assert tree.to_json()["id"] == "s0"
    assert tree.names_tuple()[0] == "step"


def test_repair_puts_lost_spans_under_the_tightest_one_around_them():
    """A span without parent goes under the smallest span that strictly encloses it."""
    tree = TraceTree.from_spans(
        [
            make_span("root", start=0, end=100),
            make_span("outer", "root", start=1, end=50),
            make_span("inner", "outer", start=2, end=20),
            make_span("lost", "root", start=3, end=4),
            make_span("late", "root", start=60, end=61),
        ]
    )
    tree.repair_hierarchy()
    inner = tree.find_id("inner")
    assert inner is not None
    assert [child.id for child in inner.children] == ["lost"]
    assert [child.id for child in tree.children] == ["outer", "late"]


def test_repair_descends_through_single_children():
    """Only the children of the first node with several are moved."""
    tree = TraceTree.from_spans(
        [
            make_span("root", start=0, end=100),
            make_span("only", "root", start=0, end=100),
            make_span("agent", "only", start=1, end=50),
            make_span("lost", "only", start=2, end=3),
        ]
    )
    tree.repair_hierarchy()
    agent = tree.find_id("agent")
    assert agent is not None
    assert [child.id for child in agent.children] == ["lost"]


def test_repair_never_makes_a_cycle():
    """A child that outlives its parent does not take its own ancestor in."""
    tree = TraceTree.from_spans(
        [
            make_span("root", start=0, end=100),
            make_span("a", "root", start=5, end=10),
            make_span("a1", "a", start=1, end=30),
            make_span("b", "root", start=2, end=20),
            make_span("b1", "b", start=3, end=40),
        ]
    )
    tree.repair_hierarchy()
    assert sorted(node.id for node in tree.traverse()) == ["a", "a1", "b", "b1", "root"]


@pytest.mark.timeout(30)
def test_repair_of_a_large_flat_trace_ends():
    """Ten thousand siblings are mended; all pairs of them would take minutes."""
    spans = [make_span("root", start=0, end=1e6)]
    spans += [make_span(f"s{n}", "root", start=n, end=n + 0.5) for n in range(10_000)]
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    assert len(tree.children) == 10_000


def test_agents_are_matched_by_subtree():
    """Calls count inside matching agents only; another named agent within resets that."""
    tree = TraceTree.from_spans(
        [
            make_span("root"),
            make_span("w", "root", agent__name="writer", start=1),
            make_llm_span("w1", "w", start=1),
            make_span("judge", "w", agent__name="judge", start=2),
            make_llm_span("j1", "judge", start=2),
            make_llm_span("alone", "root", start=3),
        ]
    )
    assert ids_of(tree.find_llm_calls(agent_match="writer")) == [("w1", "writer")]
    assert ids_of(tree.find_llm_calls(agent_match="w|j")) == [("w1", "writer"), ("j1", "judge")]
    assert ids_of(tree.find_llm_calls()) == [("w1", "writer"), ("j1", "judge"), ("alone", "*")]


def test_calls_that_compute_a_reward_are_excluded():
    """A call below a reward operation is a judge's, unless it is asked for."""
    reward = {"agentlightning__operation__name": "agentlightning.reward"}
    tree = TraceTree.from_spans(
        [
            make_span("root"),
            make_llm_span("a", "root"),
            make_span("judge", "root", name="agentlightning.operation", start=2, **reward),
            make_llm_span("b", "judge", start=2),
        ]
    )
    assert ids_of(tree.find_llm_calls()) == [("a", "*")]
    assert len(tree.find_llm_calls(exclude_llm_call_in_reward=False)) == 2


def test_one_call_counts_once():
    """Spans with one response id are one call, and a nameless call in a call is a repetition."""
    tree = TraceTree.from_spans(
        [
            make_span("root"),
            make_llm_span("a", "root", gen_ai__response__id="same"),
            make_llm_span("b", "a", gen_ai__response__id="same"),
            make_llm_span("c", "a", gen_ai__response__id=None),
            make_llm_span("d", "root", gen_ai__response__id=None, start=5),
        ]
    )
    assert ids_of(tree.find_llm_calls()) == [("a", "*"), ("d", "*")]
    assert len(tree.find_llm_calls(dedup_llm_call=False)) == 4


def test_the_gateways_record_wins_over_the_clients_span():
    """Where client and gateway saw one call, the tokens are the gateway's, the agent the client's."""
    client = make_llm_span("a", "agent", gen_ai__response__id="resp-ca-1")
    tree = TraceTree.from_spans(
        [make_span("agent", agent__name="writer"), client, make_call("ca-1").to_span()]
    )
    (triplet,) = tree.to_trajectory()
    assert triplet.response["token_ids"] == [12, 13]
    assert triplet.metadata["agent_name"] == "writer"


def test_failed_and_untrained_calls_are_left_out():
    """What the gateway marks as failed or as a judge's is no triplet, in no writer's version."""
    spans = [
        make_call("ca-1", trained=False).to_span(),
        make_llm_span("a", gen_ai__response__id="resp-ca-1"),
        make_call("ca-2", outcome="error", choices=[]).to_span(),
        make_call("ca-3").to_span(),
        make_call("ca-4", dialect="anthropic.messages").to_span(),
    ]
    triplets = TraceTree.from_spans(spans).to_trajectory()
    assert [t.metadata["response_id"] for t in triplets] == ["resp-ca-3", "resp-ca-4"]


def test_first_occurrence_looks_anywhere():
    """A reward finds its call wherever in the tree the two are."""
    tree = TraceTree.from_spans(
        [
            make_span("root", start=0, end=9),
            make_span("x", "root", start=0, end=2),
            make_llm_span("a", "x", start=0, end=1),
            make_reward_span("r", 0.5, 3, "root"),
        ]
    )
    assert [t.reward for t in tree.to_trajectory()] == [0.5]
    sibling = tree.to_trajectory(reward_match=RewardMatchPolicy.FIRST_SIBLING)
    assert [t.reward for t in sibling] == [None]


def test_first_sibling_keeps_to_one_node():
    """Among siblings a reward finds the call beside it, not one elsewhere that ended later."""
    tree = TraceTree.from_spans(
        [
            make_span("root", start=0, end=9),
            make_span("x", "root", start=0, end=8),
            make_llm_span("a", "x", start=0, end=1),
            make_reward_span("r", 0.5, 4, "x"),
            make_span("y", "root", start=0, end=8),
            make_llm_span("b", "y", start=1, end=3),
        ]
    )
    sibling = tree.to_trajectory(reward_match=RewardMatchPolicy.FIRST_SIBLING)
    assert [t.reward for t in sibling] == [0.5, None]
    assert [t.reward for t in tree.to_trajectory()] == [None, 0.5]


def test_final_reward_overrides_the_last():
    """A final reward given from outside is the last triplet's."""
    tree = TraceTree.from_spans([make_llm_span("a", start=0), make_llm_span("b", start=2)])
    assert [t.reward for t in tree.to_trajectory(final_reward=0.75)] == [None, 0.75]


def test_calls_without_tokens_may_be_skipped():
    """Skipped calls take no reward away from others."""
    spans = [
        make_llm_span("a", start=0, end=1),
        make_llm_span("b", start=2, end=3, response_token_ids=None),
        make_reward_span("r", 1.0, 4),
    ]
    (triplet,) = TraceTree.from_spans(spans).to_trajectory(_skip_empty_token_spans=True)
    assert (triplet.metadata["response_id"], triplet.reward) == ("resp-a", 1.0)


def test_span_to_triplet_can_be_overridden():
    """A subclass decides what a call becomes, wherever the call is in the tree."""

    class Mine(TraceTree):
        def span_to_triplet(self, span, agent_name):
            triplet = super().span_to_triplet(span, agent_name)
            triplet.metadata["mine"] = True
            return triplet

    tree = Mine.from_spans([make_span("root"), make_llm_span("a", "root")])
    assert all(isinstance(node, Mine) for node in tree.traverse())
    assert tree.to_trajectory()[0].metadata["mine"] is True


def test_images_of_a_prompt():
    """The tree offers the images of a prompt, as in 0.3.0."""
    tree = TraceTree.from_spans([make_span("a")])
    part = {"type": "image_url", "image_url": {"url": "u"}}
    assert tree.extract_prompt_image_urls([{"content": [part]}]) == ["u"]


def test_unknown_policy_is_refused():
    """A policy that does not exist is an error rather than no rewards."""
    tree = TraceTree.from_spans([make_span("a")])
    with pytest.raises(ValueError, match="nearest"):
        tree.match_rewards("nearest", [])
