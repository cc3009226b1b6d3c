"""Running an example agent outside: in a process and an environment of its own, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.adapter.calls import read_call
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.call import CallRecord
from tests.agents.serve import READY
from tests.gateway.running import ALL
from tests.support.model_server import Answer, ModelServer
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
AGENTS, CREWAI = ROOT / ".venvs/agents/bin/python", ROOT / ".venvs/crewai/bin/python"
"""Interpreters of the frameworks' environments, which `make frameworks` makes."""
HERE = Path(sys.executable)
"""Ours, for agents that need no framework."""
END_SECONDS = 90

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
    "AUTOGEN_TRACING_ENABLED": "false",
}
NO_WAY_OUT = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
}
"""What is not on this machine cannot be reached."""

Script = Callable[[dict[str, Any]], Answer]


def tasks(count: int) -> list[dict[str, Any]]:
    """Return so many questions, no two alike."""
    pairs = [(11 + index, 90 - index) for index in range(count)]
    return [{"question": f"What is {a} times {b}?", "answer": a * b} for a, b in pairs]


def factors(request: dict[str, Any]) -> tuple[int, int]:
    """Return the numbers that a request's conversation is about."""
    found = re.search(r"(\d+) times (\d+)", json.dumps(request["messages"]))
    assert found is not None
    return int(found[1]), int(found[2])


def use_tool(request: dict[str, Any], name: str = "multiply") -> Answer:
    """Call the tool, and then repeat its result."""
    a, b = factors(request)
    results = [text_of(m) for m in request["messages"] if m["role"] == "tool"]
    if not results:
        return call_tool(request, name, a=a, b=b)
    return Answer(text=f"The answer is {results[-1]}. ✓")


def call_tool(request: dict[str, Any], name: str, **arguments: Any) -> Answer:
    """Call a tool, under an id that no other call of the conversation has."""
    said = {"tools": [(name, json.dumps(arguments))], "text": ""}
    return Answer(**said, call_prefix=f"call_{len(request['messages'])}")


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text, whichever way it is written."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


class Runner:
    """The process; in a `with` statement, after which nothing of it is left."""

    def __init__(
        self,
        python: Path,
        agent: str,
        home: Path,
        port: int,
        rollouts: int,
        *options: str,
        path: Path | None = None,
    ) -> None:
        assert python.exists(), f"{python} is missing: run `make frameworks`"
        self._log = home / "runner.log"
        command = (str(python), "-m", "tests.agents.serve", f"examples.agents.{agent}")
        numbers = ("--port", str(port), "--rollouts", str(rollouts))
        environment = {
            "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **QUIET,
            **NO_WAY_OUT,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *numbers, *options],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until_ready(self) -> None:
        """Wait for it to have imported the agent: one that cannot would never take a rollout."""
        deadline = time.monotonic() + END_SECONDS
        while READY not in self.log():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def wait(self) -> None:
        """Wait for it to have served its rollouts."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, f"runner ended with {code}: {self.log()}"

    def log(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(errors="replace")[-6000:]


@dataclass
class Seen:
    """What happened, as the store and the model server know it."""

    server: ModelServer
    rollouts: list[Any]
    attempts: list[Any]
    calls: list[list[CallRecord]]
    """Per rollout, in order."""
    spans: list[list[Any]]
    rewards: list[float | None]
    log: str

    def check(self, *, refused: int = 0) -> None:
        """Check that all ended well, nothing was mixed, and nothing was lost or made up.

        Args:
            refused: Calls per rollout that the gateway itself answers with an error. They are
                taken out of `calls`.
        """
        ended = [(a.status, a.metadata, a.start_time, a.end_time) for a in self.attempts]
        assert [r.status for r in self.rollouts] == ["succeeded"] * len(self.rollouts), ended
        assert self.rewards == [1.0] * len(self.rollouts), self.log
        for rollout, attempt, calls in zip(self.rollouts, self.attempts, self.calls, strict=True):
            failed = [call for call in calls if call.outcome != "ok"]
            counts = {"started": len(calls), "finished": len(calls) - refused, "failed": refused}
            assert len(failed) == refused, failed
            calls[:] = [call for call in calls if call not in failed]
            assert attempt.metadata["manifest"]["calls"] == {**counts, "cancelled": 0}
            question = rollout.input["question"]
            assert all(question in json.dumps(conversation(call)) for call in calls)
            assert [call.missing for call in calls] == [[]] * len(calls)
            assert all(call.trained for call in calls)
        assert self._recorded() == self._served()

    def _recorded(self) -> Counter[Any]:
        every = [call for calls in self.calls for call in calls]
        return Counter(
            (tuple(c.prompt_token_ids), tuple(c.choices[0].token_ids), tuple(c.choices[0].logprobs))
            for c in every
        )

    def _served(self) -> Counter[Any]:
        assert all(call.finished for call in self.server.calls)
        return Counter(
            (tuple(c.prompt_token_ids), tuple(c.token_ids[0]), tuple(c.logprobs[0]))
            for c in self.server.calls
        )

    def roles(self) -> list[list[str | None]]:
        """Return per rollout the roles of its calls, in order."""
        return [[call.role for call in calls] for calls in self.calls]

    def tool_results(self) -> list[str]:
        """Return per rollout what its last call was told by the last tool."""
        found: list[str] = []
        for calls in self.calls:
            said = [text_of(m) for m in conversation(calls[-1]) if m["role"] == "tool"]
            found.append(said[-1] if said else "")
        return found


def recorded(spans: Sequence[Any]) -> list[CallRecord]:
    """Return what the gateway recorded, as it did, in the order in which calls began."""
    found = [call for span in spans if (call := read_call(span)) is not None]
    return sorted(found, key=lambda call: call.start_time)


def conversation(call: CallRecord) -> list[dict[str, Any]]:
    """Return a call's messages in the shape of chat completions, whatever its client spoke."""
    return (call.chat_request or call.request)["messages"]


async def run_outside(
    python: Path,
    agent: str,
    script: Script,
    home: Path,
    *,
    count: int = 3,
    models: dict[str, str | None] | None = None,
    path: Path | None = None,
) -> Seen:
    """Run questions through an example agent against a scripted model server.

    Args:
        python: Interpreter that the agent and its runner run under.
        agent: Module below `examples.agents`, with the agent's name where it is not `agent`.
        script: What the model says.
        home: An empty directory, for whatever the agent writes.
        count: Rollouts, all at the same time.
        models: Further model aliases, and the roles they stand for.
        path: Where else programs are.
    """
    with ModelServer(script) as server:
        async with _served(server, models or {}) as (store, port):
            asked = tasks(count)
            rollouts = [await store.enqueue_rollout(task) for task in asked]
            concurrency = ("--concurrency", str(count))
            with Runner(python, agent, home, port, count, *concurrency, path=path) as runner:
                await asyncio.to_thread(runner.wait)
                log = runner.log()
            ids = [rollout.rollout_id for rollout in rollouts]
            spans = [await store.query_spans(each) for each in ids]
            return Seen(
                server=server,
                rollouts=[await store.get_rollout_by_id(each) for each in ids],
                attempts=[await store.get_latest_attempt(each) for each in ids],
                calls=[recorded(each) for each in spans],
                spans=[list(s) for s in spans],
                rewards=[agl.find_final_reward(s) for s in spans],
                log=log,
            )


@contextlib.asynccontextmanager
async def _served(
    server: ModelServer, models: dict[str, str | None]
) -> AsyncIterator[tuple[Any, int]]:
    """Run store and gateway; yield the store and the port it is served at."""
    store = InMemoryLightningStore(thread_safe=True)
    upstream = HttpUpstream(server.endpoint, capabilities=ALL, timeout=20.0)
    routes = {
        alias: ModelRoute(upstream=upstream, model="real-m", role=role)
        for alias, role in {"m": None, **models}.items()
    }
    gateway = Gateway(store, models=routes)
    served = LightningStoreServer(store, "127.0.0.1", free_port())
    await gateway.start()
    await served.start()
    try:
        await store.add_resources({"llm": agl.ProxyLLM(endpoint=gateway.endpoint, model="m")})
        yield store, int(served.endpoint.rsplit(":", 1)[1])
    finally:
        await served.stop()
        await gateway.stop()
        await store.close()
