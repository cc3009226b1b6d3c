"""Rules that write: each makes one call, with arguments that may well be wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from agentlightning.store.base import UNSET
from agentlightning.store.idempotency import idempotency_key
from agentlightning.types import EnqueueRolloutRequest, PromptTemplate, RolloutConfig, Span
from tests.support.store_harness import MOST_ROLLOUTS, NOWHERE, StoreHarness, plain
from tests.support.store_model import ENDS, Record, Refused


def maybe(values: Any) -> Any:
    return st.sampled_from([None, *values])


rollout_at, attempt_at = st.integers(0, NOWHERE), st.integers(0, NOWHERE)
workers, leases = maybe(["w-a", "w-b"]), maybe([4.0])
metadata = maybe([{"team": "a"}, {"team": "b", "n": 1}])
configs = maybe(
    [
        {"max_attempts": 2, "retry_condition": ["failed", "unresponsive"]},
        {"unresponsive_seconds": 3.0, "max_attempts": 3, "retry_condition": ["unresponsive"]},
        {"timeout_seconds": 6.0, "max_attempts": 2, "retry_condition": ["timeout"]},
        {"timeout_seconds": 5.0, "unresponsive_seconds": 5.0},
    ]
)
rollout_statuses = ("queuing", "requeuing", "preparing", "running", *ENDS)
attempt_statuses = ("preparing", "running", "succeeded", "failed", "timeout", "unresponsive")
requests = st.fixed_dictionaries(
    {
        "input": st.sampled_from([0, "x", {"q": [1, None]}]),
        "mode": maybe(["train", "val"]),
        "resources_id": maybe(["rs-given"]),
        "config": configs,
        "metadata": metadata,
    }
)
made_ids = maybe([f"ro-{number}" for number in range(MOST_ROLLOUTS)])
numbers = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([0, 0, 0, 2, 9])), min_size=1, max_size=4
)
span_groups = st.lists(st.tuples(rollout_at, attempt_at, numbers), min_size=1, max_size=2)


def with_config(given: Record) -> Record:
    config = given["config"]
    return {**given, "config": None if config is None else RolloutConfig(**config)}


class WritingMachine(StoreHarness):
    """Makes, claims, settles and loses rollouts, and stores spans."""

    # Making and claiming rollouts.

    @initialize(given=st.lists(requests, min_size=2, max_size=3))
    def begin(self, given: list[Record]) -> None:
        self.enqueue([(request, None) for request in given], again=False)
        self.dequeue(1, "w-a", None, None, again=False)
        self.dequeue(1, "w-b", 4.0, None, again=False)
        self.start_attempt(0, None, "w-a", None, again=False)

    @precondition(StoreHarness.has_room)
    @rule(
        given=st.lists(st.tuples(requests, made_ids), min_size=1, max_size=3), again=st.booleans()
    )
    def enqueue(self, given: list[tuple[Record, str | None]], again: bool) -> None:
        batch = [
            EnqueueRolloutRequest(**with_config(request), rollout_id=rollout_id)
            for request, rollout_id in given
        ]
        if len(batch) == 1 and given[0][1]:
            request, rollout_id = given[0]
            got = [
                self.call(
                    "enqueue_rollout", **with_config(request), rollout_id=rollout_id, again=again
                )
            ]
        else:
            got = self.call("enqueue_many_rollouts", batch, again=again)
        for (request, rollout_id), answer in zip(given, got, strict=True):
            made = rollout_id or answer["rollout_id"]
            assert rollout_id or made not in self.model.rollouts
            assert answer == self.model.enqueue(made, **request)

    @precondition(StoreHarness.has_room)
    @rule(given=requests, rollout_id=made_ids, worker=workers, lease=leases, again=st.booleans())
    def start_rollout(
        self,
        given: Record,
        rollout_id: str | None,
        worker: str | None,
        lease: float | None,
        again: bool,
    ) -> None:
        got = self.call(
            "start_rollout",
            **with_config(given),
            worker_id=worker,
            rollout_id=rollout_id,
            lease_seconds=lease,
            again=again,
        )
        if rollout_id in self.model.rollouts:
            unstarted = self.model.latest(rollout_id) is None
            assert got.args == ("ConflictError",) if unstarted else got == self.shown(rollout_id)
            return
        made = rollout_id or got["rollout_id"]
        self.model.new_rollout(made, "preparing", **given)
        self.model.start_attempt(made, got["attempt"]["attempt_id"], worker, lease)
        assert got == self.shown(made)

    @rule(
        limit=st.integers(0, 3), worker=workers, lease=leases, wanted=metadata, again=st.booleans()
    )
    def dequeue(
        self,
        limit: int,
        worker: str | None,
        lease: float | None,
        wanted: Record | None,
        again: bool,
    ) -> None:
        terms: Record = {"worker_id": worker, "lease_seconds": lease, "metadata": wanted}
        if limit == 1:
            claim = self.call("dequeue_rollout", **terms, again=again)
            got = [] if claim is None else [claim]
        else:
            got = self.call("dequeue_many_rollouts", limit=limit, **terms, again=again)
        ids = [claim["attempt"]["attempt_id"] for claim in got]
        claimed = self.model.claim(limit, worker, ids, lease, wanted)
        assert got == [self.shown(rollout_id) for rollout_id in claimed]

    @rule(key=st.sampled_from(["claim-a", "claim-b"]), worker=workers, lease=leases)
    def dequeue_again(self, key: str, worker: str | None, lease: float | None) -> None:
        """A client that asks again later, under the same key, has what it has not lost."""

        def call() -> Any:
            return self.store.dequeue_many_rollouts(limit=2, worker_id=worker, lease_seconds=lease)

        with idempotency_key(key):
            got = self.ask(call)
        held = [attempt for attempt in self.claims.get(key, []) if self.model.is_held(attempt)]
        if held:
            assert got == [self.shown(attempt["rollout_id"]) for attempt in held]
            return
        claimed = self.model.claim(
            2, worker, [claim["attempt"]["attempt_id"] for claim in got], lease
        )
        assert got == [self.shown(rollout_id) for rollout_id in claimed]
        self.claims[key] = [self.model.attempts[rollout_id][-1] for rollout_id in claimed]

    @rule(
        at=rollout_at,
        attempt_id=maybe(["at-mine"]),
        worker=workers,
        lease=leases,
        again=st.booleans(),
    )
    def start_attempt(
        self,
        at: int,
        attempt_id: str | None,
        worker: str | None,
        lease: float | None,
        again: bool,
    ) -> None:
        rollout_id = self.rollout_id(at)
        got = self.call(
            "start_attempt",
            rollout_id,
            worker,
            attempt_id=attempt_id,
            lease_seconds=lease,
            again=again,
        )

        def wanted() -> Record:
            made = attempt_id or ("" if isinstance(got, Refused) else got["attempt"]["attempt_id"])
            attempt = self.model.start_attempt(rollout_id, made, worker, lease)
            return {**self.model.rollout(rollout_id), "attempt": attempt}

        self.expect(got, wanted)

    # Spans.

    @rule(groups=span_groups, again=st.booleans())
    def add_spans(self, groups: list[tuple[int, int, list[tuple[int, int]]]], again: bool) -> None:
        spans: list[Span] = []
        for at, which, given in groups:
            rollout_id = self.rollout_id(at)
            spans += [
                Span.from_attributes(
                    attributes={"number": number},
                    rollout_id=rollout_id,
                    attempt_id=self.attempt_id(rollout_id, which),
                    sequence_id=sequence_id,
                    name="odd" if number % 2 else "even",
                    trace_id=f"{number:032x}",
                    span_id=f"{number:016x}",
                    parent_id=f"{1:016x}" if number > 2 else None,
                    start_time=float(number) if number < 4 else None,
                )
                for number, sequence_id in given
            ]

        def wanted() -> Any:
            stored = self.model.add_spans([plain(span) for span in spans])
            return stored if len(spans) > 1 else (stored or [None])[0]

        if len(spans) == 1:
            self.expect(self.call("add_span", spans[0], again=again), wanted)
        else:
            self.expect(self.call("add_many_spans", spans, again=again), wanted)

    @rule(places=st.lists(rollout_at, max_size=3), again=st.booleans())
    def reserve(self, places: list[int], again: bool) -> None:
        owners = [(self.rollout_id(at), "at-any") for at in places]
        if len(owners) == 1:
            got = [self.call("get_next_span_sequence_id", *owners[0], again=again)]
        else:
            got = self.call("get_many_span_sequence_ids", owners, again=again)
        assert got == [self.model.next_number(rollout_id) for rollout_id, _ in owners]

    # Settling.

    @rule(
        at=rollout_at,
        which=attempt_at,
        status=maybe(attempt_statuses),
        worker=workers,
        beat=maybe([0.0]),
        notes=maybe([{"note": 1}]),
        again=st.booleans(),
    )
    def update_attempt(
        self,
        at: int,
        which: int,
        status: str | None,
        worker: str | None,
        beat: float | None,
        notes: Record | None,
        again: bool,
    ) -> None:
        rollout_id = self.rollout_id(at)
        attempt_id = self.named(rollout_id, which)
        beat = None if beat is None else self.model.now
        given = {"worker_id": worker, "last_heartbeat_time": beat, "metadata": notes}
        fields = {key: value for key, value in given.items() if value is not None}
        asked = {"status": status} if status else {}
        got = self.call("update_attempt", rollout_id, attempt_id, **asked, **fields, again=again)
        self.expect(got, lambda: self.model.update_attempt(rollout_id, attempt_id, status, fields))

    @rule(
        at=rollout_at,
        status=maybe(rollout_statuses),
        mode=st.sampled_from([UNSET, UNSET, None, "test"]),
        config=configs,
        again=st.booleans(),
    )
    def update_rollout(
        self, at: int, status: str | None, mode: Any, config: Record | None, again: bool
    ) -> None:
        rollout_id = self.rollout_id(at)
        fields: Record = {} if mode is UNSET else {"mode": mode}
        asked: Record = {"status": status} if status else {}
        changed = {**fields, **({"config": config} if config else {})}
        if config:
            asked["config"] = RolloutConfig(**config)
        got = self.call("update_rollout", rollout_id, **asked, **fields, again=again)
        self.expect(got, lambda: self.model.update_rollout(rollout_id, status, changed))

    @rule(at=rollout_at, which=attempt_at, output=maybe([{"a": 1}]), again=st.booleans())
    def finish(self, at: int, which: int, output: Any, again: bool) -> None:
        rollout_id = self.rollout_id(at)
        attempt_id = self.named(rollout_id, which)
        named = None if attempt_id == "latest" else attempt_id
        got = self.call("finish_rollout", rollout_id, named, output=output, again=again)
        result = {"outcome": "ok"} | ({} if output is None else {"output": output})
        self.expect(got, lambda: self.model.settle(rollout_id, attempt_id, "succeeded", result))

    @rule(at=rollout_at, which=attempt_at, again=st.booleans())
    def fail(self, at: int, which: int, again: bool) -> None:
        rollout_id = self.rollout_id(at)
        attempt_id = self.named(rollout_id, which)
        named = None if attempt_id == "latest" else attempt_id
        got = self.call("fail_rollout", rollout_id, named, error="boom", again=again)
        error = {"type": "AgentError", "message": "boom", "traceback": None}
        result = {"outcome": "agent_error", "error": error}
        self.expect(got, lambda: self.model.settle(rollout_id, attempt_id, "failed", result))

    # Resources, workers, time.

    @rule(name=maybe(["rs-x", "rs-y", "rs-x@1"]), adds=st.booleans(), again=st.booleans())
    def publish(self, name: str | None, adds: bool, again: bool) -> None:
        resources = {"p": PromptTemplate(template=str(next(self.keys)), engine="jinja")}
        if adds or name is None:
            got = self.call("add_resources", resources, resources_id=name, again=again)
        else:
            got = self.call("update_resources", name, resources, again=again)
        if name == "rs-x@1":
            assert got.args == ("InvalidRequestError",)
        elif adds and name in self.model.resources:
            assert got == self.model.resources[name][-1]
        else:
            assert got["resources"] == plain(resources)
            self.model.publish(got)

    @rule(worker=st.sampled_from(["w-a", "w-c"]), stats=maybe([{"cpu": 0.5}]))
    def heartbeat(self, worker: str, stats: Record | None) -> None:
        got = self.call("update_worker", worker, **({"heartbeat_stats": stats} if stats else {}))
        assert got == self.model.heartbeat(worker, stats)

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.5]), scans=st.booleans())
    def time_passes(self, seconds: float, scans: bool) -> None:
        self.model.now += seconds
        if scans:
            self.scan()

    def scan(self) -> None:
        """Lost attempts are ended in some order, which is that of the journal."""
        lost = self.model.lost()
        self.ask(self.store.scan)
        events = self.runner.run(self.store._changes.journal.read(self.seq))
        ended = [
            str(event.rollout_id)
            for event in events
            if event.kind == "attempt_updated" and event.status in {"timeout", "unresponsive"}
        ]
        assert sorted(ended) == sorted(lost)
        for rollout_id in ended:
            self.model.lose(rollout_id, lost[rollout_id])
