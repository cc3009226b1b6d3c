"""What workers do in the chaos tests: five spans and two model calls for each rollout, and a note
of everything that was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import AttemptedRollout, ProxyLLM, Span

SPANS = 5
CALLS = 2
PATIENCE = (0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 4.0, 8.0)
"""Pauses of clients that outlive a server's restart on a busy machine."""


class Flag(Protocol):
    def is_set(self) -> bool: ...


class AckLog:
    """One line for each acknowledged write; what was written survives the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def note(self, kind: str, **what: Any) -> None:
        self._file.write(json.dumps({"kind": kind, **what}) + "\n")

    def close(self) -> None:
        self._file.close()


def read_acks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all that was acknowledged to anybody, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.acks")):
        for line in path.read_text().splitlines():
            note = json.loads(line)
            found.setdefault(note["kind"], []).append(note)
    return found


def patient_client(address: str) -> LightningStoreClient:
    return LightningStoreClient(address, retry_delays=PATIENCE, health_retry_delays=(0.1,))


def make_span(claim: AttemptedRollout, step: int) -> Span:
    """Return a span that says whose it is."""
    return Span.from_attributes(
        attributes={"marker": claim.input["marker"], "step": step},
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
        name=f"step-{step}",
        start_time=1.0,
        end_time=2.0,
    )


async def ask(http: aiohttp.ClientSession, url: str, text: str) -> str | None:
    """Make one model call; None if it was refused, as it is when it cannot be recorded."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    async with http.post(f"{url}/chat/completions", json=body) as reply:
        if reply.status >= 500:
            await reply.read()
            return None
        answer = await reply.json()
        assert reply.status == 200, answer
        return answer["choices"][0]["message"]["content"]


class Worker:
    """Claims and executes rollouts until told to stop.

    Args:
        address: Of the store's server.
        gateway: Base URL of the gateway.
        acks: Where to note what was acknowledged.
    """

    def __init__(self, address: str, gateway: str, acks: AckLog) -> None:
        self._store = patient_client(address)
        self._llm = ProxyLLM(endpoint=gateway, model="m")
        self._acks = acks

    async def run(self, slots: int, name: str, stop: Flag) -> None:
        """Keep `slots` rollouts going in this event loop."""
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            await asyncio.gather(
                *(self._slot(http, f"{name}-{slot}", stop) for slot in range(slots))
            )

    async def close(self) -> None:
        await self._store.close()

    async def _slot(self, http: aiohttp.ClientSession, worker_id: str, stop: Flag) -> None:
        while not stop.is_set():
            claim = await self._store.dequeue_rollout(worker_id, wait_seconds=2.0)
            if claim is not None:
                await self._work(http, claim)

    async def _work(self, http: aiohttp.ClientSession, claim: AttemptedRollout) -> None:
        ids = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id}
        self._acks.note("claim", **ids)
        spans = [make_span(claim, step) for step in range(SPANS)]
        stored = [await self._store.add_span(spans[0])]
        self._acks.note("span", **ids, span_id=spans[0].span_id)
        await self._call(http, claim, 0)
        stored += await self._store.add_many_spans(spans[1:])
        for span in spans[1:]:
            self._acks.note("span", **ids, span_id=span.span_id)
        await self._call(http, claim, 1)
        await self._store.update_attempt(*ids.values(), status="succeeded")
        self._acks.note("end", **ids)

    async def _call(self, http: aiohttp.ClientSession, claim: AttemptedRollout, turn: int) -> None:
        ids = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id}
        url = self._llm.get_base_url(**ids)
        for attempt in range(20):
            text = f"{claim.input['marker']} turn {turn} try {attempt}"
            answer = await ask(http, url, text)
            if answer is not None:
                assert answer == f"re: {text}"
                self._acks.note("call", **ids, text=text)
                return
        raise AssertionError(f"no answer to {text}")


def run_worker(address: str, gateway: str, acks: Path, slots: int, name: str, stop: Flag) -> None:
    """Do the same in a thread or process of its own, with an event loop of its own."""
    log = AckLog(acks)
    worker = Worker(address, gateway, log)

    async def work() -> None:
        try:
            await worker.run(slots, name, stop)
        finally:
            await worker.close()
            log.close()

    asyncio.run(work())
