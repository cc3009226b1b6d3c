"""Trees are drawn through Graphviz."""

import os
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


def test_without_graphviz_the_text_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the program, the error says where the graph's text is."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="Graphviz is not installed"):
        draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree").read_text().startswith("digraph")


def test_the_program_gets_the_text_and_the_pictures_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stand-in for Graphviz is asked as its manual says; a PNG lies beside the text."""
    program(tmp_path, monkeypatch, '[ "$1 $2" = "-Tpng -o" ] && cat "$4" > "$3"')
    draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree.png").read_text() == (tmp_path / "tree").read_text()


def test_what_graphviz_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program that refuses is quoted, and the text is kept."""
    program(tmp_path, monkeypatch, "echo no such font >&2; exit 1")
    with pytest.raises(ConfigurationError, match=r"could not draw .*: no such font"):
        draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree").exists()


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_with_graphviz_a_picture_is_made(tmp_path: Path):
    """The real program draws a PNG."""
    draw_tree([(make_span("a"), None)], str(tmp_path / "tree"))
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    dot = folder / "bin" / "dot"
    dot.parent.mkdir()
    dot.write_text(f"#!/bin/sh\n{code}\n")
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", str(dot.parent), prepend=os.pathsep)
