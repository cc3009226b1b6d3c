"""The API description as a web page without scripts or anything from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

__all__ = ["render_api"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
summary { cursor: pointer; padding: .25rem 0 } pre { overflow: auto; padding: .5rem }
pre, code { background: #8882; font-size: .9rem } .method { display: inline-block; width: 3.5rem }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #9cf } }
"""


def render_api(document: dict[str, Any]) -> str:
    """Return an HTML page of an OpenAPI document."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    routes = [
        _route(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [
        _folded(f'<span id="{escape(name)}">{escape(name)}</span>', _code(schema))
        for name, schema in document["components"]["schemas"].items()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        '<p>The same as <a href="/openapi.json">/openapi.json</a>, to read.</p>'
        f"<h2>Routes</h2>{''.join(routes)}<h2>Schemas</h2>{''.join(schemas)}</html>"
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    head = (
        f'<code><span class="method">{escape(method.upper())}</span> {escape(path)}</code> '
        f"{escape(operation['summary'])}"
    )
    parts: list[str] = []
    if operation["parameters"]:
        parts.append("<h4>Parameters</h4>" + _code(operation["parameters"]))
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        parts.append("<h4>Body</h4>" + _code(content["schema"]))
    parts += [
        f"<h4>{escape(status)} {escape(answer['description'])}</h4>"
        + "".join(_code(content.get("schema", {})) for content in answer["content"].values())
        for status, answer in operation["responses"].items()
    ]
    return _folded(head, "".join(parts))


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"


def _code(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
