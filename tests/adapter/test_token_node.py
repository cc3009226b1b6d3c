"""Runs of ids, and the way among them."""

import numpy as np
import pytest

from agentlightning.adapter.token_node import CHUNK, Node, common_length, walk


def ids(*values):
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize("at", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_common_length_is_the_first_difference(at):
    """Wherever two runs differ, chunks or not, that is where."""
    left = np.arange(2 * CHUNK + 5, dtype=np.int32)
    right = left.copy()
    right[at] = -1
    assert common_length(left, right) == at
    assert common_length(left, left[: at + 1]) == at + 1


def test_a_split_node_reads_as_before():
    """The path through a node is the same before and after it is cut."""
    root = Node(ids())
    node = root.add(Node(ids(1, 2, 3, 4)))
    upper = node.split(1)
    assert [n.ids.tolist() for n in node.path()] == [[1], [2, 3, 4]]
    assert walk(root, ids(1, 2, 3, 9)) == (node, 2, 3)
    node.remove()
    assert not upper.children
    assert walk(root, ids(1, 2)) == (upper, 1, 1)


def test_the_deepest_match_wins_and_the_first_among_equals():
    """Siblings that begin alike are all tried."""
    root = Node(ids())
    short, long, twin = (root.add(Node(ids(*run))) for run in ([1], [1, 2, 3], [1, 2, 3]))
    assert walk(root, ids(1, 2, 3, 4)) == (long, 3, 3)
    below = short.add(Node(ids(2, 3, 4)))
    assert walk(root, ids(1, 2, 3, 4)) == (below, 3, 4)
    assert twin.path() == [twin]
