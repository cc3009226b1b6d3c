"""Finding the endpoint of a request without trying one pattern after the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.operation import Endpoint

__all__ = ["RouteTable"]

MAX_PARAMETER_CHARACTERS: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NONE: Final[Mapping[str, str]] = {}


class _Node:
    """Routes that share the segments so far."""

    __slots__ = ("by_method", "children", "parameter", "parameter_name")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.parameter_name = ""
        self.by_method: dict[str, Endpoint] = {}


class RouteTable:
    """Endpoints by method and path; `{name}` stands for one segment, which may hold any text.

    A segment is split off before it is unquoted, so ids may hold slashes as `%2F`.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._plain: dict[tuple[str, str], Endpoint] = {}

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Add a route; a literal segment goes before a parameter."""
        if "{" not in path:
            self._plain[method, path] = endpoint
        node = self._root
        for segment in path.split("/"):
            if segment.startswith("{"):
                if node.parameter is None:
                    node.parameter = _Node()
                node.parameter_name = segment.strip("{}")
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        node.by_method[method] = endpoint

    def find(self, method: str, path: str) -> tuple[Endpoint, Mapping[str, str]] | None:
        """Return the endpoint and its parameters, or None if no route takes the request.

        Args:
            method: HTTP method.
            path: The path as it was sent, still quoted.

        Raises:
            InvalidRequestError: A parameter is no usable text.
        """
        if method == "HEAD":
            method = "GET"
        plain = self._plain.get((method, path))
        if plain is not None:
            return plain, _NONE
        given: dict[str, str] = {}
        endpoint = _match(self._root, method, path.split("/"), 0, given)
        if endpoint is None:
            return None
        return endpoint, {name: _parameter(text) for name, text in given.items()}


def _match(
    node: _Node, method: str, segments: list[str], at: int, given: dict[str, str]
) -> Endpoint | None:
    if at == len(segments):
        return node.by_method.get(method)
    segment = segments[at]
    child = node.children.get(segment)
    if child is not None:
        found = _match(child, method, segments, at + 1, given)
        if found is not None:
            return found
    if node.parameter is None or not segment:
        return None
    found = _match(node.parameter, method, segments, at + 1, given)
    if found is not None:
        given[node.parameter_name] = segment
    return found


def _parameter(quoted: str) -> str:
    if quoted.isalnum() and len(quoted) <= MAX_PARAMETER_CHARACTERS and quoted.isascii():
        return quoted
    try:
        text = unquote(quoted, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{quoted[:100]!r} in the path is not UTF-8.") from error
    if len(text) > MAX_PARAMETER_CHARACTERS or _CONTROL.search(text):
        raise InvalidRequestError(
            f"{text[:100]!r} cannot be an id: use up to {MAX_PARAMETER_CHARACTERS} characters, "
            "and no control characters."
        )
    return text
