"""The project's Python source as data: files, functions, classes and comments.

It only reads; what is too long or missing is for the checks to say.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agentlightning"
CHECKED = ("agentlightning", "agent_lightning", "scripts", "benchmarks", "examples")

SUPPRESSION = re.compile(r"#\s*(noqa|pyright:\s*ignore|type:\s*ignore|pragma:\s*no cover)")
JUSTIFIED = re.compile(
    r"#\s*(noqa: [A-Z0-9, ]+ - \S"
    r"|(pyright|type):\s*ignore\[[\w, -]+\]\s+# \S"
    r"|pragma: no cover - \S)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function or class of one file."""

    path: str
    name: str
    """Dotted inside the file, as in `Store.add_span`."""
    kind: str
    """`function` or `class`."""
    lines: int
    """From `def` or `class` to its last line, without docstrings."""
    public: bool
    documented: bool

    @property
    def key(self) -> str:
        """The name under which exceptions are listed."""
        return f"{self.path}:{self.name}"


def python_files(*roots: str) -> list[Path]:
    """Return the Python files under directories of the repository, sorted."""
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def relative(path: Path) -> str:
    """Return a path as it is written in lists and messages."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def line_count(path: Path) -> int:
    """Return how many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of every comment; strings that look like one do not count."""
    reader = io.StringIO(path.read_text(encoding="utf-8")).readline
    for token in tokenize.generate_tokens(reader):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def definitions(path: Path) -> Iterator[Definition]:
    """Yield every function and class of a file, nested ones included."""
    yield from _walk(parsed(path), relative(path), prefix="", public=True)


def _walk(node: ast.AST, path: str, *, prefix: str, public: bool) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _walk(child, path, prefix=prefix, public=public)
            continue
        name = f"{prefix}{child.name}"
        is_class = isinstance(child, ast.ClassDef)
        visible = public and not child.name.startswith("_")
        yield Definition(
            path=path,
            name=name,
            kind="class" if is_class else "function",
            lines=_lines_without_docstring(child),
            public=visible,
            documented=ast.get_docstring(child) is not None,
        )
        # What is inside a function is nobody's public name.
        yield from _walk(child, path, prefix=f"{name}.", public=visible and is_class)


def _lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    # A class that explains its methods well is not thereby too long.
    inner = ast.walk(node) if isinstance(node, ast.ClassDef) else [node]
    for item in inner:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(item) is not None:
            first = item.body[0]
            total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total
