"""Bringing spans to stores in the background: batched, retried, bounded, and never in the way.

One daemon thread with one event loop serves any number of stores, each through a lane of its own,
so that a slow store delays nobody else. Delivery is at least once; stores ignore repetitions.
"""

import asyncio
import contextvars
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.tracer.delivery import Delivery
from agentlightning.tracer.lane import ExportOptions, Lane

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["ExportOptions", "StoreExporter"]


class StoreExporter:
    """The background thread and its lanes; it starts by itself and may be shut down and reused.

    All public methods may be called from any thread. After a fork the child starts afresh: what
    was queued belongs to the parent.
    """

    def __init__(self, options: ExportOptions | None = None) -> None:
        self.options = options or ExportOptions()
        self.forget()
        _exporters.add(self)

    def forget(self) -> None:
        """Start afresh without stopping anything; for a forked child, which has no threads."""
        for lane in getattr(self, "_lanes", {}).values():
            lane.forget()
        # Reentrant, since a garbage-collected tracer may shut down in any line.
        self._lock = threading.RLock()
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def lane(self, store: "LightningStore", home: asyncio.AbstractEventLoop | None = None) -> Lane:
        """Return the lane to a store, always the same one for the same arguments.

        Args:
            store: The store.
            home: Event loop on which a store that is not thread-safe has to be called; None for
                the export thread's own.
        """
        safe = store.capabilities.get("thread_safe", False)
        loop = None if safe else home
        key = (id(store), id(loop))
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                self._lanes = {k: v for k, v in self._lanes.items() if not v.is_stale}
                lane = self._lanes[key] = Lane(store, loop, self.options, self.spawn)
            return lane

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "Future[None]":
        """Run a coroutine on the export loop, starting the thread if need be.

        In the export thread, while it ends, the coroutine is closed and its future stays open.
        """
        if threading.current_thread() is self._thread and self._stopping:
            # Garbage that ends a span as it goes, here. `shutdown` holds the lock and waits for
            # this thread, so the lock cannot be had; it will count what is queued as dropped.
            coroutine.close()
            return Future()
        with self._lock:
            loop = self._ensure_loop()
            return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(self._loop,), name="agl-span-export", daemon=True
            )
            # An empty context: the thread must not look as if it belonged to some rollout.
            contextvars.Context().run(self._thread.start)
        return self._loop

    def hurry(self) -> None:
        """End every lane's linger, so that what is queued goes out now."""
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.hurry()

    def flush(self, deliveries: list[Delivery], timeout: float | None) -> bool:
        """Block until the spans of these attempts are stored or given up.

        Returns:
            Whether that was so within `timeout` seconds.
        """
        futures = [delivery.drained() for delivery in deliveries]
        self.hurry()
        done, waiting = wait(futures, timeout)
        for future in waiting:
            future.cancel()
        return len(done) == len(futures)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Give what is queued `timeout` seconds to go out, then stop the thread; idempotent.

        What is left is counted as dropped. A later span starts the thread again.
        """
        if threading.current_thread() is self._thread:
            return
        deadline = monotonic() + timeout
        with self._lock:
            lanes, loop, thread = list(self._lanes.values()), self._loop, self._thread
        here = _running_loop()
        for lane in lanes:
            lane.home_is_blocked = here is not None and lane.home is here
            lane.hurry()
        for lane in lanes:
            lane.idle.wait(max(0.0, deadline - monotonic()))
            lane.home_is_blocked = False
        # The lock is held to the end: a span that comes meanwhile starts a new thread after it.
        with self._lock:
            if loop is None or thread is None or self._loop is not loop:
                return
            self._stopping = True
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            self._loop = self._thread = None
            self._stopping = False
            for lane in lanes:
                lane.abandon()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


_exporters: "weakref.WeakSet[StoreExporter]" = weakref.WeakSet()


def _restart_in_child() -> None:
    for exporter in list(_exporters):
        exporter.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_in_child)
