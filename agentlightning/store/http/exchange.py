"""One HTTP request in the terms of our routes: its body, its arguments, its answer.

Reading is bounded, and the other end's going away can be watched.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin
from urllib.parse import parse_qs

from pydantic import BaseModel

from agentlightning.store.http.errors import UnprocessableError, WireError
from agentlightning.store.http.wire import decode

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

    from agentlightning.store.base import LightningStore
    from agentlightning.store.http.site import Site

__all__ = ["Exchange", "Reply", "Stream", "raw_header", "read_body"]

BodyT = TypeVar("BodyT", bound=BaseModel)

JSON_TYPE: Final = "application/json"
_PLAIN_JSON: Final = JSON_TYPE.encode()
_JSON_TYPES: Final = frozenset({"", JSON_TYPE, "text/json"})


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is complete."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on until its source ends or the client leaves."""

    source: AsyncGenerator[bytes, None]
    content_type: str


class Exchange:
    """A request whose body has been read.

    Args:
        site: What the server shares between its requests.
        scope: The ASGI scope, with `path_params`.
        receive: The rest of the request: only its end is left.
        body: The body, decompressed.
    """

    def __init__(self, site: Site, scope: Scope, receive: Receive, body: bytes) -> None:
        self.site = site
        self.body = body
        self.replay_key: str | None = None
        """Key under which the answer is kept for a repeat of the request, if it is."""
        self._scope = scope
        self._receive = receive

    @property
    def store(self) -> LightningStore:
        """The store that is served."""
        return self.site.store

    @property
    def path(self) -> Mapping[str, str]:
        """Parameters from the path, as text."""
        return self._scope["path_params"]

    @property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; of repeated ones the last."""
        return header_map(self._scope)

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """Query parameters, each with all its values."""
        raw: bytes = self._scope.get("query_string", b"")
        try:
            return parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=10_000)
        except (UnicodeDecodeError, ValueError) as error:
            raise UnprocessableError(f"The query string cannot be read: {error}.") from error

    def json(self) -> Any:
        """Return the JSON body.

        Raises:
            WireError: The body is not declared as JSON, or is none.
        """
        given = raw_header(self._scope, b"content-type")
        # Perf: what almost every client says is not taken apart.
        if given == _PLAIN_JSON:
            return decode(self.body)
        declared = given.decode("latin-1").split(";")[0].strip().lower()
        if declared not in _JSON_TYPES and not declared.endswith("+json"):
            raise WireError(
                f"The body is declared as {declared!r}: send Content-Type: {JSON_TYPE}.",
                status=415,
                wire_code="unsupported_media_type",
            )
        return decode(self.body)

    def parse(self, model: type[BodyT]) -> BodyT:
        """Return the JSON body as a model."""
        return model.model_validate(self.json())

    def parse_optional(self, model: type[BodyT]) -> BodyT:
        """Return the JSON body as a model, which has defaults for an empty body."""
        return self.parse(model) if self.body.strip() not in (b"", b"null") else model()

    def parse_query(self, model: type[BodyT]) -> BodyT:
        """Return the query string as a model; list fields take repeated parameters."""
        values: dict[str, Any] = {}
        for name, given in self.query.items():
            known = model.model_fields.get(name)
            if known is not None:
                values[name] = given if _takes_list(known.annotation) else given[-1]
        return model.model_validate(values)

    async def gone(self) -> None:
        """Return once the client has closed the connection."""
        await until_gone(self._receive)


async def until_gone(receive: Receive) -> None:
    """Return once the client has closed the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _takes_list(annotation: Any) -> bool:
    return any(get_origin(part) is list for part in (annotation, *get_args(annotation)))


def raw_header(scope: Scope, name: bytes) -> bytes:
    """Return a header by its lower-case name, empty if it was not sent; of repeated ones the last."""
    raw: dict[bytes, bytes] | None = scope.get("agl.headers")
    if raw is None:
        raw = scope["agl.headers"] = dict(scope["headers"])
    return raw.get(name, b"")


def header_map(scope: Scope) -> dict[str, str]:
    """Return the request's headers by lower-case name."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body, decompressed if it is gzip.

    Raises:
        WireError: It is longer than `limit` bytes, cannot be decompressed, or was cut off.
    """
    length = raw_header(scope, b"content-length")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message: MutableMapping[str, Any] | Message = await receive()
        if message["type"] == "http.disconnect":
            raise UnprocessableError("The body was cut off.")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    encoding = raw_header(scope, b"content-encoding").decode("latin-1").strip().lower()
    return body if not encoding else _decompressed(body, encoding, limit)


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise WireError(
            f"Content-Encoding {encoding!r} is not supported: use gzip or none.",
            status=415,
            wire_code="unsupported_media_type",
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        # Why: bounding the output keeps a small request from filling the memory.
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnprocessableError(f"The body is not valid {encoding}: {error}.") from error
    if len(plain) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise UnprocessableError(f"The {encoding} body is incomplete.")
    return plain


def _too_large(limit: int) -> WireError:
    return WireError(
        f"The body is larger than {limit} bytes: send it in several requests.",
        status=413,
        wire_code="too_large",
    )
