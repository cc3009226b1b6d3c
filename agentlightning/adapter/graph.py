"""Drawing a trace tree with Graphviz, through its `dot` program."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agentlightning.errors import ConfigurationError
from agentlightning.types.tracer import Span

__all__ = ["draw_tree", "tree_as_dot"]


def tree_as_dot(edges: Iterable[tuple[Span, Span | None]], interested: str | None = None) -> str:
    """Return a tree in the DOT language.

    Args:
        edges: Each span with its parent, parents first.
        interested: Regular expression searched in span names; matches are filled.
    """
    lines = ["digraph trace {", "  node [shape=box];"]
    for span, parent in edges:
        seconds = (span.end_time or 0.0) - (span.start_time or 0.0)
        label = json.dumps(f"{span.name}\n{seconds:.3f} s", ensure_ascii=False)
        filled = interested is not None and re.search(interested, span.name)
        style = ", style=filled, fillcolor=lightblue" if filled else ""
        lines.append(f"  {json.dumps(span.span_id)} [label={label}{style}];")
        if parent is not None:
            lines.append(f"  {json.dumps(parent.span_id)} -> {json.dumps(span.span_id)};")
    return "\n".join([*lines, "}", ""])


def draw_tree(
    edges: Iterable[tuple[Span, Span | None]], filename: str, interested: str | None = None
) -> None:
    """Write `<filename>` in the DOT language, and `<filename>.png` drawn from it.

    Raises:
        ConfigurationError: The program `dot` is not installed, or refuses; the text is written.
    """
    source = Path(filename)
    source.write_text(tree_as_dot(edges, interested), encoding="utf-8")
    program = shutil.which("dot")
    if program is None:
        raise ConfigurationError(
            f"Graphviz is not installed: {source} holds the graph; install `dot` to draw it."
        )
    drawing = subprocess.run(
        [program, "-Tpng", "-o", f"{filename}.png", filename],
        capture_output=True,
        text=True,
        check=False,
    )
    if drawing.returncode:
        raise ConfigurationError(f"Graphviz could not draw {source}: {drawing.stderr.strip()}")
