"""Weave without its service: calls go to a trace server in this process, no account, no network.

Everything runs in the thread that makes the call, so that the context of a call is there when it
starts. Weave's own client is used; only the server behind it is ours.
"""

import hashlib
import importlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

from agentlightning._internal.extra import require_extra
from agentlightning.errors import ConfigurationError

__all__ = [
    "InMemoryWeaveTraceServer",
    "instrument_weave",
    "uninstrument_weave",
    "weave_settings",
]

_SETTINGS: Mapping[str, Any] = {
    "print_call_link": False,
    "capture_code": False,
    "capture_client_info": False,
    "capture_system_info": False,
    "use_server_cache": False,
}
"""What differs from Weave's defaults: nothing to link to, and less to serialise."""


class InMemoryWeaveTraceServer:
    """Weave's trace server as far as recording calls needs it; it keeps no calls.

    Objects that calls refer to are kept as long as the server is, so that they can be read back.

    Args:
        on_start: Gets a call's start as Weave tells it, and returns what `on_end` is to get.
        on_end: Gets start and end of a call, and what `on_start` returned.
    """

    def __init__(
        self,
        on_start: Callable[[dict[str, Any]], Any],
        on_end: Callable[[dict[str, Any], dict[str, Any], Any], None],
    ) -> None:
        self._on_start = on_start
        self._on_end = on_end
        self._lock = threading.Lock()
        self._running: dict[str, tuple[dict[str, Any], Any]] = {}
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._files: dict[str, bytes] = {}

    def call_start(self, req: Mapping[str, Any]) -> Any:
        """Take the start of a call."""
        start = dict(req["start"])
        kept = self._on_start(start)
        with self._lock:
            self._running[start["id"]] = (start, kept)
        return SimpleNamespace(id=start["id"], trace_id=start["trace_id"])

    def call_end(self, req: Mapping[str, Any]) -> Any:
        """Take the end of a call; one whose start is unknown is ignored."""
        end = dict(req["end"])
        with self._lock:
            start, kept = self._running.pop(end["id"], (None, None))
        if start is not None:
            self._on_end(start, end, kept)
        return SimpleNamespace()

    def call_update(self, req: Mapping[str, Any]) -> Any:
        """Give a running call another display name."""
        with self._lock:
            start, _ = self._running.get(req["call_id"], ({}, None))
            start["display_name"] = req.get("display_name")
        return SimpleNamespace()

    def obj_create(self, req: Mapping[str, Any]) -> Any:
        """Keep an object and say its digest."""
        made = dict(req["obj"])
        digest = made.get("expected_digest") or _digest(made["val"])
        with self._lock:
            self._objects[made["object_id"], digest] = made
        return SimpleNamespace(digest=digest, object_id=made["object_id"])

    def obj_read(self, req: Mapping[str, Any]) -> Any:
        """Return an object that was kept.

        Raises:
            ConfigurationError: It was not.
        """
        with self._lock:
            found = self._objects.get((req["object_id"], req["digest"]))
        if found is None:
            raise ConfigurationError(f"Weave object {req['object_id']!r} is not in this process.")
        described = {"digest": req["digest"], "version_index": 0, "is_latest": 1, "kind": "object"}
        defaults = {"base_object_class": None, "leaf_object_class": None, "deleted_at": None}
        return SimpleNamespace(obj=SimpleNamespace(**{**defaults, **described, **found}))

    def table_create(self, req: Mapping[str, Any]) -> Any:
        """Say the digests of a table and its rows, which are not kept."""
        rows = [_digest(row) for row in req["table"]["rows"]]
        return SimpleNamespace(digest=_digest(rows), row_digests=rows)

    def table_create_from_digests(self, req: Mapping[str, Any]) -> Any:
        """Say the digest of a table whose rows were sent before."""
        return SimpleNamespace(digest=_digest(list(req["row_digests"])))

    def file_create(self, req: Mapping[str, Any]) -> Any:
        """Keep a file and say its digest."""
        given = req["file"]
        content = given[1] if isinstance(given, tuple) else given
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._files[digest] = content
        return SimpleNamespace(digest=digest)

    def file_content_read(self, req: Mapping[str, Any]) -> Any:
        """Return a file's content; empty for one that was never sent."""
        with self._lock:
            return SimpleNamespace(content=self._files.get(req["digest"], b""))

    def feedback_create(self, req: Mapping[str, Any]) -> Any:
        """Take feedback and forget it."""
        return SimpleNamespace(id=_digest(str(req)), payload={}, wb_user_id="", created_at=None)

    def ensure_project_exists(self, entity: str, project: str) -> Any:
        """Say that it does."""
        return SimpleNamespace(project_name=project)

    def server_info(self) -> Any:
        """Say that every client is recent enough."""
        return SimpleNamespace(min_required_weave_python_version="0.0.0")


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class _Client:
    """Weave's client of this process."""

    lock = threading.Lock()
    users = 0
    before: Any = None
    """The client that the program had set up itself."""


def instrument_weave(
    server: InMemoryWeaveTraceServer,
    *,
    project: str = "agentlightning/agentlightning",
    patch_libraries: bool = True,
) -> None:
    """Let Weave record into `server`, instead of into its service.

    It may be called several times, and lasts until `uninstrument_weave` was called as often; the
    first call's server counts.

    Args:
        server: Takes the calls.
        project: `entity/project`, as they appear in the names of operations.
        patch_libraries: Whether Weave instruments OpenAI's and other client libraries too.

    Raises:
        MissingExtraError: Weave is not installed.
    """
    require_extra("weave", "weave")
    with _Client.lock:
        _Client.users += 1
        if _Client.users > 1:
            return
        context = importlib.import_module("weave.trace.context.weave_client_context")
        # It reports its errors to its vendor, from its first import on.
        sentry = importlib.import_module("weave.telemetry.trace_sentry").global_trace_sentry
        vars(sentry)["_disabled"] = True
        _Client.before = context.get_weave_client()
        context.set_weave_client_global(None)
        context.set_weave_client_global(_make_client(server, project))
        if patch_libraries:
            patch = importlib.import_module("weave.integrations.patch")
            patch.implicit_patch()
            patch.register_import_hook()


def _make_client(server: InMemoryWeaveTraceServer, project: str) -> Any:
    entity, _, name = project.rpartition("/")
    client_module = importlib.import_module("weave.trace.weave_client")
    with weave_settings():
        return client_module.WeaveClient(
            entity or "agentlightning", name, server, ensure_project_exists=False
        )


def uninstrument_weave() -> None:
    """Undo one `instrument_weave`; the client that the program had before is put back.

    Libraries that Weave has instrumented stay so, and record nothing without a client.
    """
    with _Client.lock:
        if _Client.users == 0:
            return
        _Client.users -= 1
        if _Client.users:
            return
        context = importlib.import_module("weave.trace.context.weave_client_context")
        context.set_weave_client_global(None)
        if _Client.before is None:
            importlib.import_module("weave.integrations.patch").unregister_import_hook()
        else:
            context.set_weave_client_global(_Client.before)
            _Client.before = None


def weave_settings(
    user_settings: Mapping[str, Any] | None = None,
) -> AbstractContextManager[Any]:
    """Return a context manager in which Weave works as tracing into this process needs it.

    Args:
        user_settings: Fields of Weave's `UserSettings` that differ.
    """
    settings = importlib.import_module("weave.trace.settings")
    # No threads: the context of a call has to be there when its start is taken.
    chosen = {**_SETTINGS, **(user_settings or {}), "client_parallelism": 0, "enable_wal": False}
    return settings.override_settings(**chosen)
