"""An agent that is a command: any program that finds its model by the usual variables.

The program need not know of us. It runs in a process of its own per rollout; its model calls are
recorded by the gateway that its base URL leads to.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from agentlightning.emitter.operation import operation
from agentlightning.errors import (
    AgentError,
    AgentTimeoutError,
    ConfigurationError,
    HarnessError,
    RewardError,
)
from agentlightning.litagent.base import LitAgent
from agentlightning.litagent.child_environment import (
    PASSED_ON,
    attempt_variables,
    chosen,
    model_variables,
)
from agentlightning.litagent.child_process import ChildOutput, run_child
from agentlightning.litagent.resources import first_resource, llm_of_attempt
from agentlightning.settings import agent_environment
from agentlightning.tracer.active import get_active_tracer
from agentlightning.types import LLM, NamedResources, Rollout

__all__ = ["CommandAgent"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIELD = re.compile(r"(?<!\$)\{(\w+)\}")
"""A placeholder; `${HOME}` is left to shells."""

_FILE = "file:"
_SHOWN_CHARACTERS = 2000


class CommandAgent(LitAgent[T]):
    """Runs a command for each task, and reads the reward from what it leaves.

    In the command, in `environment`, `directory` and `stdin`, `{name}` stands for the task's field
    of that name, `{task}` for the whole task (a text as it is, anything else as JSON), and
    `{model}`, `{endpoint}` and `{api_key}` for the model. No shell reads the command.

    The program gets `OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`, their keys and model names,
    `AGL_ROLLOUT_ID`, `AGL_ATTEMPT_ID`, `TRACEPARENT`, OpenTelemetry's endpoint and resource
    attributes, an empty `HOME` of its own, `PATH` and the locale, and nothing else of this process's
    environment. When its attempt ends or is stopped, or its runner dies, everything
    that it has started is killed.

    An exit code other than 0 fails the attempt (outcome `agent_error`) with the end of the
    program's errors, a time limit that is exceeded makes it a `timeout`.

    Args:
        command: Program and arguments with placeholders, or a function
            `(task, llm, rollout) -> list` that returns them.
        reward: Where the reward is. `stdout`: the last line that the program prints, as JSON, a
            number or a dict of numbers. `file:NAME`: a file in its working directory that holds
            the same. `exit_code`: 1 for 0 and 0 for any other, which then is no failure. `output`:
            nowhere; `Trainer(reward_fn=...)` gets a dict of `exit_code`, `stdout`, `stderr` and
            `seconds`. A function `(task, output, directory)` may read it, too, before the
            directory is removed.
        environment: Further variables.
        inherit: Names of variables of this process that the program gets as well.
        directory: Where it runs; by default in its `HOME`, which is removed afterwards.
        stdin: What it can read; by default nothing.
        timeout_seconds: Time limit, besides that of the rollout.
        output_limit: How many bytes of its output, and of its errors, are kept, from the end.

    Example:
        >>> agent = CommandAgent(["claude", "-p", "{question}"], reward="output")
        >>> agent.command
        ['claude', '-p', '{question}']
    """

    def __init__(
        self,
        command: Sequence[str] | Callable[[Any, LLM, Rollout], Sequence[str]],
        *,
        reward: str | Callable[[Any, dict[str, Any], Path], Any] = "stdout",
        environment: Mapping[str, str] | None = None,
        inherit: Sequence[str] = (),
        directory: str | Path | None = None,
        stdin: str | None = None,
        timeout_seconds: float | None = None,
        output_limit: int = 65536,
    ) -> None:
        """Check the arguments; nothing runs yet.

        Raises:
            ConfigurationError: The command is empty or a single text, or `reward` is unknown.
        """
        super().__init__()
        if isinstance(command, str) or not command:
            raise ConfigurationError(
                f"The command is {command!r}; give a list of program and arguments, such as "
                "['bash', '-c', '...'] where a shell is wanted."
            )
        known = ("stdout", "exit_code", "output")
        if isinstance(reward, str) and reward not in known and not reward.startswith(_FILE):
            raise ConfigurationError(
                f"reward={reward!r} is unknown; use {', '.join(known)}, 'file:NAME' or a function."
            )
        self.command = command if callable(command) else list(command)
        self.reward = reward
        self.environment = dict(environment or {})
        self.inherit = tuple(inherit)
        self.directory = directory
        self.stdin = stdin
        self.timeout_seconds = timeout_seconds
        self.output_limit = output_limit

    def requires_resources(self) -> bool:
        return True

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> Any:
        """Run the command for one task.

        Raises:
            AgentError: It ended with an error.
            AgentTimeoutError: It took too long.
            HarnessError: There is no such program or directory.
            RewardError: What it left is no reward.
            ConfigurationError: A placeholder has no value, or no model was published.
        """
        llm = llm_of_attempt(first_resource(resources, LLM), rollout)
        values = _values(task, llm)
        made = self.command(task, llm, rollout) if callable(self.command) else self.command
        command = [_filled(part, values) for part in made]
        with tempfile.TemporaryDirectory(prefix="agl-command-") as home:
            directory = self._directory(values, Path(home))
            with operation(name="command", propagate=get_active_tracer() is not None) as recorded:
                recorded.set_input(command=command)
                environment = self._environment(llm, rollout, values, home)
                child = await run_child(
                    [_found(command[0], environment, directory), *command[1:]],
                    environment=environment,
                    directory=directory,
                    stdin=None if self.stdin is None else _filled(self.stdin, values),
                    timeout_seconds=self.timeout_seconds,
                    output_limit=self.output_limit,
                )
                output = _described(child)
                recorded.set_output(output)
                self._check(child)
            return self._read_reward(task, output, directory)

    def _environment(
        self, llm: LLM, rollout: Rollout, values: Mapping[str, str], home: str
    ) -> dict[str, str]:
        return {
            **chosen(agent_environment(), PASSED_ON),
            "HOME": home,
            "TMPDIR": home,
            **chosen(agent_environment(), self.inherit),
            **model_variables(llm),
            **attempt_variables(rollout, self._store()),
            **{name: _filled(value, values) for name, value in self.environment.items()},
        }

    def _store(self) -> Any:
        # Absent where the agent is called by itself, and in runners of other kinds.
        runner: Any = self._runner_ref() if self._runner_ref is not None else None
        return runner.get_store() if hasattr(runner, "get_store") else None

    def _directory(self, values: Mapping[str, str], home: Path) -> Path:
        if self.directory is None:
            return home
        given = Path(_filled(str(self.directory), values)).absolute()
        if not given.is_dir():
            raise HarnessError(f"The command's directory {given} does not exist.")
        return given

    def _check(self, child: ChildOutput) -> None:
        if child.timed_out:
            raise AgentTimeoutError(f"The command ran longer than {self.timeout_seconds} seconds.")
        if child.exit_code and self.reward != "exit_code":
            errors = (child.stderr.strip() or child.stdout.strip())[-_SHOWN_CHARACTERS:]
            raise AgentError(f"The command {_how_it_ended(child.exit_code)}: {errors or 'silent'}")

    def _read_reward(self, task: Any, output: dict[str, Any], directory: Path) -> Any:
        if callable(self.reward):
            return self.reward(task, output, directory)
        if self.reward == "output":
            return output
        if self.reward == "exit_code":
            return float(output["exit_code"] == 0)
        if self.reward == "stdout":
            lines = output["stdout"].strip().splitlines()
            return _parsed(lines[-1] if lines else "", "the last line of its output")
        path = directory / self.reward.removeprefix(_FILE)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RewardError(f"The command left no reward in {path.name}: {error}") from error
        return _parsed(text, path.name)


def _values(task: Any, llm: LLM) -> dict[str, str]:
    """Return what placeholders stand for."""
    fields = cast("Mapping[str, Any]", task) if isinstance(task, Mapping) else {}
    ours = {"model": llm.model, "endpoint": llm.endpoint, "api_key": llm.api_key or ""}
    return {**{str(k): _text(v) for k, v in fields.items()}, "task": _text(task), **ours}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _filled(template: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigurationError(
                f"{template!r} asks for {{{match[1]}}}, but there are only: {', '.join(values)}."
            )
        return values[match[1]]

    return _FIELD.sub(value, template)


def _found(program: str, environment: Mapping[str, str], directory: Path) -> str:
    """Return the path of a program, which a relative path names from the working directory."""
    path = str(directory / program) if "/" in program else program
    found = shutil.which(path, path=environment.get("PATH"))
    if found is None:
        raise HarnessError(
            f"There is no program {program!r}; the PATH is {environment.get('PATH')!r}."
        )
    return found


def _described(child: ChildOutput) -> dict[str, Any]:
    output: dict[str, Any] = {
        "exit_code": child.exit_code,
        "stdout": child.stdout,
        "stderr": child.stderr,
        "seconds": child.seconds,
    }
    if child.cut_bytes:
        output["cut_bytes"] = child.cut_bytes
    return output


def _how_it_ended(exit_code: int) -> str:
    if exit_code > 0:
        return f"ended with code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _parsed(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, bool | int | float | dict):
        raise RewardError(
            f"The command left no reward in {where}: {text[-_SHOWN_CHARACTERS:]!r} is neither a "
            "number nor a JSON object of numbers."
        )
    return cast("Any", value)
