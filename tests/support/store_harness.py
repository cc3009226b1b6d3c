"""A store and its plain model side by side: calling, choosing, comparing; the rules are elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant
from pydantic import BaseModel

from agentlightning._internal import clock
from agentlightning.errors import StoreError
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.idempotency import idempotency_key
from tests.support.store_model import ENDS, Record, Refused, StoreModel

NEVER = 1e9
MOST_ROLLOUTS = 6
NOWHERE = 20
"""This place names nothing that exists; others are counted around what there is."""
Opener = Callable[[], AbstractContextManager[CollectionBasedLightningStore]]


def plain(value: Any) -> Any:
    """Return records as dicts of all of their fields, however deep."""
    if isinstance(value, BaseModel):
        return {key: plain(item) for key, item in value.__dict__.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class StoreHarness(RuleBasedStateMachine):
    """Holds both; `opener` opens an empty store."""

    def __init__(self, opener: Opener) -> None:
        super().__init__()
        self.model = StoreModel()
        self.time = clock.time
        clock.time = SimpleNamespace(time=lambda: self.model.now, monotonic=lambda: self.model.now)
        self.runner = asyncio.Runner()
        self.opening = opener()
        self.store = self.opening.__enter__()
        assert self.store._watchdog is not None
        # Time only passes, and attempts are only lost, when a rule says so.
        self.store._watchdog.stop()
        self.store._next_scan = NEVER
        self.keys = itertools.count()
        self.seq = 0
        self.told: dict[str, list[str]] = {}
        self.claims: dict[str, list[Record]] = {}
        """What was claimed last under a key, as the model has it."""

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.opening.__exit__(None, None, None)
        clock.time = self.time

    # Calling.

    def ask(self, call: Callable[[], Any]) -> Any:
        try:
            return plain(self.runner.run(call(), context=contextvars.copy_context()))
        except StoreError as error:
            return Refused(type(error).__name__)

    def call(self, name: str, *args: Any, again: bool = False, **kwargs: Any) -> Any:
        """Call the store, perhaps as a client that heard no answer: twice, under one key."""
        method = getattr(self.store, name)
        if not again:
            return self.ask(lambda: method(*args, **kwargs))
        with idempotency_key(f"key-{next(self.keys)}"):
            first = self.ask(lambda: method(*args, **kwargs))
            second = self.ask(lambda: method(*args, **kwargs))
        if not isinstance(first, Refused) and name not in {"add_span", "add_many_spans"}:
            assert second == first
        return first

    @staticmethod
    def expect(got: Any, wanted: Callable[[], Any]) -> None:
        try:
            want = wanted()
        except Refused as refused:
            assert isinstance(got, Refused), f"should have been refused: {refused}"
            assert got.args == refused.args
        else:
            assert got == want

    # Choosing.

    def rollout_id(self, at: int) -> str:
        there = list(self.model.rollouts)
        return there[at % len(there)] if there and at != NOWHERE else "ro-none"

    def attempt_id(self, rollout_id: str, at: int) -> str:
        attempts = self.model.attempts.get(rollout_id, [])
        return (
            attempts[at % len(attempts)]["attempt_id"] if attempts and at != NOWHERE else "at-none"
        )

    def named(self, rollout_id: str, at: int) -> str:
        """Return an attempt's id, or `latest`."""
        return "latest" if at % 2 else self.attempt_id(rollout_id, at // 2)

    def shown(self, rollout_id: str) -> Record:
        """Return a rollout as readers get it: with its latest attempt."""
        latest = self.model.latest(rollout_id)
        return {**self.model.rollout(rollout_id), **({"attempt": latest} if latest else {})}

    def has_room(self) -> bool:
        return len(self.model.rollouts) < MOST_ROLLOUTS

    # What is kept.

    @invariant()
    def everything_is_the_same(self) -> None:
        self.runner.run(self.compare())

    async def compare(self) -> None:
        store, model = self.store, self.model
        rollouts = await store.query_rollouts()
        assert plain(list(rollouts)) == [self.shown(key) for key in model.rollouts]
        for rollout_id, attempts in model.attempts.items():
            assert all(attempt["end_time"] is not None for attempt in attempts[:-1])
            if len(attempts) > 1:
                assert plain(list(await store.query_attempts(rollout_id))) == attempts
            spans = sorted(model.spans[rollout_id], key=lambda span: span["sequence_id"])
            assert plain(list(await store.query_spans(rollout_id))) == spans
        assert plain(list(await store.query_workers())) == list(model.workers.values())
        newest = [versions[-1] for versions in model.resources.values()]
        assert plain(list(await store.query_resources())) == newest
        assert plain(await store.get_latest_resources()) == model.newest_resources()
        ids = list(model.rollouts)
        ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=0)
        finished = [key for key in ids if model.rollouts[key]["status"] in ENDS]
        assert [rollout.rollout_id for rollout in ended] == finished
        await self.follow()

    async def follow(self) -> None:
        """The journal tells every status that a rollout had, each once, in growing numbers."""
        for event in await self.store._changes.journal.read(self.seq):
            assert event.seq > self.seq
            self.seq = event.seq
            if event.kind in {"rollout_created", "rollout_updated"}:
                told = self.told.setdefault(str(event.rollout_id), [])
                if told[-1:] != [event.status]:
                    told.append(str(event.status))
        assert self.told == self.model.history
