"""Agents that are commands."""

import asyncio
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import agentlightning as agl
from agentlightning.errors import ConfigurationError
from agentlightning.litagent.command import CommandAgent
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.semconv import AGL_OPERATION
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import RolloutConfig

URL = "http://127.0.0.1:9/v1"


def python(code: str) -> list[str]:
    """Return the command that runs code."""
    return [sys.executable, "-c", code]


async def run(
    agent: CommandAgent[Any], task: Any, *, config=None, store=None, **options
) -> tuple[Any, Any]:
    """Run one task with a real runner; return the attempt and the spans."""
    own = InMemoryLightningStore(thread_safe=True)
    store = store or own
    await store.add_resources({"llm": agl.ProxyLLM(endpoint=URL, model="m", api_key="k")})
    rollout = await store.enqueue_rollout(task, config=config)
    runner = LitAgentRunner[Any](OtelTracer(), max_rollouts=1, heartbeat_interval=0.0, **options)
    with runner.run_context(agent=agent, store=store):
        await runner.iter()
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    spans = await store.query_spans(rollout.rollout_id)
    await own.close()
    return attempt, spans


async def reward_of(agent: CommandAgent[Any], task: Any, **options) -> float | None:
    attempt, spans = await run(agent, task, **options)
    assert attempt.status == "succeeded", attempt.metadata
    return agl.find_final_reward(spans)


async def failure_of(agent: CommandAgent[Any], task: Any, **options) -> tuple[str, str]:
    """Return the outcome and the message of a rollout that fails."""
    attempt, _ = await run(agent, task, **options)
    assert attempt.status != "succeeded"
    return attempt.metadata["outcome"], attempt.metadata["error"]["message"]


async def test_the_last_line_printed_is_the_reward():
    """A number or a dict of numbers on the last line, whatever was printed before."""
    assert await reward_of(CommandAgent(python("print('hi'); print(0.5)")), 1) == 0.5
    attempt, spans = await run(CommandAgent(python('print(\'{"reward": 1, "form": 0.2}\')')), 1)
    (span,) = agl.find_reward_spans(spans)
    assert {r.name: r.value for r in agl.get_rewards_from_span(span)} == {"reward": 1, "form": 0.2}
    assert attempt.metadata["outcome"] == "ok"


async def test_placeholders_are_filled_from_task_and_model():
    """Fields, the whole task and the model; braces that are no placeholder stay."""
    code = "import sys, json; print(json.dumps(sys.argv[1:]), file=sys.stderr); print(1)"
    argv = ["{question}", "{n}", "{task}", "{model}", "{endpoint}", '{"a": 1}', "${HOME}"]
    agent = CommandAgent([*python(code), *argv], reward="output")
    seen: list[Any] = []
    task = {"question": "why?", "n": 3}

    def grade(task: Any, output: Any) -> float:
        seen.append(json.loads(output["stderr"]))
        return 1.0

    attempt, _ = await run(agent, task, reward_fn=grade)
    endpoint = f"http://127.0.0.1:9/rollout/{attempt.rollout_id}/attempt/{attempt.attempt_id}/v1"
    assert seen == [["why?", "3", json.dumps(task), "m", endpoint, '{"a": 1}', "${HOME}"]]


async def test_the_environment_is_ours_and_minimal(monkeypatch):
    """A program sees its model, ids and trace, what was asked for, and no secret of ours."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("WANTED", "w")
    code = "import os, json; print(json.dumps(dict(os.environ)), file=sys.stderr); print(1)"
    agent = CommandAgent(
        python(f"import sys; {code}"),
        environment={"TOPIC": "{topic}"},
        inherit=["WANTED"],
        reward="output",
    )
    seen: list[Any] = []
    attempt, spans = await run(
        agent, {"topic": "t"}, reward_fn=lambda task, output: seen.append(output) or 1.0
    )
    found = json.loads(seen[0]["stderr"])
    ids = f"rollout/{attempt.rollout_id}/attempt/{attempt.attempt_id}"
    assert found["OPENAI_BASE_URL"] == f"http://127.0.0.1:9/{ids}/v1"
    assert found["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:9/{ids}"
    assert found["OPENAI_API_KEY"] == found["ANTHROPIC_AUTH_TOKEN"] == "k"
    assert found["AGL_ROLLOUT_ID"] == attempt.rollout_id
    assert (found["WANTED"], found["TOPIC"]) == ("w", "t")
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert not Path(found["HOME"]).exists()
    (operation,) = [span for span in spans if span.name == AGL_OPERATION]
    assert found["TRACEPARENT"].split("-")[1:3] == [operation.trace_id, operation.span_id]


SPAN = """
import os
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
context = TraceContextTextMapPropagator().extract({"traceparent": os.environ["TRACEPARENT"]})
with provider.get_tracer("t").start_as_current_span("in the child", context=context):
    pass
print(1)
"""


async def test_spans_of_the_program_arrive_in_the_trace():
    """OpenTelemetry's own SDK and exporter, with nothing but the environment, reach the store."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, "127.0.0.1", 0)
    await server.start()
    try:
        attempt, spans = await run(CommandAgent(python(SPAN)), 1, store=server)
    finally:
        await server.stop()
        await store.close()
    assert attempt.metadata["outcome"] == "ok"
    (operation,) = [span for span in spans if span.name == AGL_OPERATION]
    (inner,) = [span for span in spans if span.name == "in the child"]
    assert (inner.attempt_id, inner.trace_id) == (attempt.attempt_id, operation.trace_id)
    assert inner.parent_id == operation.span_id


async def test_what_was_run_and_said_is_recorded():
    """Command, exit code and outputs are in the trace, failed ones included."""
    agent = CommandAgent(python("import sys; print('out'); sys.exit('wrong {x}')"))
    attempt, spans = await run(agent, {"x": "X"})
    (operation,) = [span for span in spans if span.name == AGL_OPERATION]
    recorded = operation.attributes
    assert recorded["agentlightning.operation.output.exit_code"] == 1
    assert recorded["agentlightning.operation.output.stdout"] == "out\n"
    assert recorded["agentlightning.operation.output.stderr"] == "wrong X\n"
    assert "wrong X" in recorded["agentlightning.operation.input.command"][-1]
    assert operation.status.status_code == "ERROR"
    assert attempt.metadata["error"]["message"] == "The command ended with code 1: wrong X"


async def test_a_file_may_hold_the_reward():
    """The file is read before the rollout's directory goes; one that is not there is no reward."""
    code = "open('score.json', 'w').write('{\"reward\": 0.25}')"
    assert await reward_of(CommandAgent(python(code), reward="file:score.json"), 1) == 0.25
    outcome, message = await failure_of(CommandAgent(python(""), reward="file:score.json"), 1)
    assert outcome == "reward_error"
    assert "score.json" in message


async def test_the_exit_code_may_be_the_reward():
    """As a test command says it: 0 is 1, everything else 0 and no failure."""
    agent = CommandAgent(["sh", "-c", "exit {code}"], reward="exit_code")
    assert await reward_of(agent, {"code": 0}) == 1.0
    assert await reward_of(agent, {"code": 3}) == 0.0


async def test_a_function_may_read_the_reward():
    """It gets task, output and the directory."""

    def grade(task: Any, output: dict[str, Any], directory: Path) -> float:
        return float((directory / "a").read_text() == task and output["exit_code"] == 0)

    assert await reward_of(CommandAgent(["sh", "-c", "printf {task} > a"], reward=grade), "t") == 1


async def test_input_and_directory_can_be_given(tmp_path):
    """The task can come on the input; a directory of the user's is neither cleaned nor a home."""
    (tmp_path / "data").mkdir()
    code = "import os, sys; print(int(os.getcwd().endswith('data')) + len(sys.stdin.read()))"
    agent = CommandAgent(python(code), stdin="{task}", directory=tmp_path / "{name}")
    assert await reward_of(agent, {"name": "data"}) == 1 + len('{"name": "data"}')
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize(
    ("command", "outcome", "said"),
    [
        (["sh", "-c", "echo no >&2; exit 3"], "agent_error", "ended with code 3: no"),
        (["sh", "-c", "kill -9 $$"], "agent_error", "was killed by SIGKILL: silent"),
        (["no-such-program-anywhere"], "harness_error", "no program 'no-such-program-anywhere'"),
        (["sh", "-c", "echo done"], "reward_error", "'done' is neither a number"),
        (["sh", "-c", "echo NaN"], "reward_error", "must be a finite number"),
        (["sh", "-c", "true"], "reward_error", "the last line of its output"),
        (["echo", "{nothing}"], "agent_error", "asks for {nothing}, but there are only"),
    ],
)
async def test_failures_have_their_class_and_say_why(command, outcome, said):
    """How a command failed is the outcome of its attempt."""
    found = await failure_of(CommandAgent(command), "x")
    assert found[0] == outcome
    assert said in found[1]


async def test_a_time_limit_of_its_own_is_a_timeout():
    """A command that takes too long is stopped, and the attempt is a timeout."""
    agent = CommandAgent(["sleep", "600"], timeout_seconds=0.2)
    assert (await failure_of(agent, 1))[0] == "timeout"


async def test_the_rollouts_time_limit_kills_the_command(tmp_path):
    """Nothing of it runs on when the rollout's own time is over."""
    agent = CommandAgent(["sh", "-c", "sleep 600 & echo $! > pid; wait"], directory=tmp_path)
    outcome, _ = await failure_of(agent, 1, config=RolloutConfig(timeout_seconds=1.0))
    assert outcome == "timeout"
    pid, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_missing_directory_is_named():
    """A directory that does not exist is a mistake of the setup."""
    outcome, message = await failure_of(CommandAgent(["true"], directory="/no/where"), 1)
    assert outcome == "harness_error"
    assert "/no/where" in message


async def test_a_relative_program_is_one_of_the_working_directory(tmp_path):
    """`./run` is looked up where the command runs."""
    program = tmp_path / "run"
    program.write_text("#!/bin/sh\necho 1\n")
    program.chmod(0o755)
    assert await reward_of(CommandAgent(["./run"], directory=tmp_path), 1) == 1.0


async def test_a_function_may_make_the_command():
    """It sees task, model and rollout."""

    def command(task: Any, llm: agl.LLM, rollout: agl.Rollout) -> list[str]:
        return ["echo", str(len(task) + (llm.model == "m") + rollout.rollout_id.startswith("ro"))]

    assert await reward_of(CommandAgent(command), "abc") == 5


def test_trainers_take_commands():
    """In threads, eight at a time, like any other agent."""
    store = InMemoryLightningStore(thread_safe=True)
    llm = agl.ProxyLLM(endpoint=URL, model="m")
    trainer = agl.Trainer(
        strategy="shm", store=store, concurrency=8, initial_resources={"llm": llm}
    )
    trainer.dev(CommandAgent(["echo", "0.{task}"]), list(range(1, 9)))
    rollouts = asyncio.run(store.query_rollouts())
    spans = [asyncio.run(store.query_spans(rollout.rollout_id)) for rollout in rollouts]
    rewards = {r.input: agl.find_final_reward(s) for r, s in zip(rollouts, spans, strict=True)}
    assert rewards == {n: n / 10 for n in range(1, 9)}


@pytest.mark.parametrize("arguments", [{"command": "ls -l"}, {"command": []}])
def test_a_command_is_a_list(arguments):
    """A single text would need a shell, which is not there."""
    with pytest.raises(ConfigurationError, match="give a list"):
        CommandAgent(**arguments)


def test_unknown_rewards_are_refused():
    """A typing error is told at once."""
    with pytest.raises(ConfigurationError, match="'stdot' is unknown"):
        CommandAgent(["ls"], reward="stdot")


def test_agents_travel_to_other_processes():
    """Runners that are processes get a copy."""
    agent = pickle.loads(pickle.dumps(CommandAgent(["ls", "{x}"], environment={"A": "b"})))
    assert (agent.command, agent.environment, agent.is_async()) == (["ls", "{x}"], {"A": "b"}, True)
    assert agl.CommandAgent is CommandAgent
