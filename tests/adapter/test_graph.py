"""Trees are drawn through Graphviz."""

import shutil
from pathlib import Path

import pytest

from agentlightning.adapter.graph import draw_tree, tree_as_dot
from agentlightning.errors import ConfigurationError
from tests.support.spans import make_span


def test_dot_text_escapes_names_and_marks_matches():
    """Quotes in names are escaped, edges follow parents, interesting spans are filled."""
    root, child = make_span("a", name='say "hi"'), make_span("b", "a", name="other")
    text = tree_as_dot([(root, None), (child, root)], "say")
    assert r"say \"hi\"\n1.000 s" in text
    assert '"a" -> "b";' in text
    assert text.count("fillcolor") == 1


@pytest.mark.skipif(shutil.which("dot") is not None, reason="Graphviz is installed")
def test_without_graphviz_the_text_is_kept(tmp_path: Path):
    """Without the program, the error says where the graph's text is."""
    with pytest.raises(ConfigurationError, match="Graphviz"):
        draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree").read_text().startswith("digraph")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_with_graphviz_a_picture_is_made(tmp_path: Path):
    """With the program, a PNG lies beside the text."""
    draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
