"""Algorithm and runners as real processes around a real store server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from agentlightning.errors import ConfigurationError, ExecutionError
from agentlightning.execution import ClientServerExecutionStrategy
from agentlightning.store.memory import InMemoryLightningStore
from tests.execution import bundles
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]


def execute(algorithm, runner, **options):
    """Run both sides; return what the store holds afterwards. No process may be left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    store = InMemoryLightningStore()
    options = {"graceful_timeout": 5.0, "terminate_timeout": 5.0, **options}
    try:
        ClientServerExecutionStrategy(**options).execute(algorithm, runner, store)
        return asyncio.run(bundles.collect(store))
    finally:
        asyncio.run(store.close())
        assert not {
            child.pid
            for child in psutil.Process().children(recursive=True)
            if child.pid not in before and "resource_tracker" not in " ".join(child.cmdline())
        }


def test_rollouts_run_in_processes():
    """Every task is executed once, in another process, and its spans reach the store."""
    found = execute(
        partial(bundles.run_tasks, range(12)),
        partial(bundles.run_agents, bundles.Echo()),
        n_runners=2,
    )
    assert {task: row[:2] + row[3:] for task, row in found.items()} == {
        task: ["succeeded", ["ok"], [float(task)]] for task in range(12)
    }
    assert {worker for row in found.values() for worker in row[2]} <= {"Worker-0", "Worker-1"}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_killed_runner_is_replaced(start_method):
    """A runner killed with -9 is started again, and its rollout finishes at a second attempt."""
    found = execute(
        partial(bundles.run_tasks, [12, 13, 14]),
        partial(bundles.run_agents, bundles.DiesOnce()),
        n_runners=1,
        start_method=start_method,
    )
    assert [row[0] for row in found.values()] == ["succeeded"] * 3
    assert found[13][1] == ["interrupted", "ok"]
    assert found[12][1] == found[14][1] == ["ok"]


def test_a_rollout_that_kills_its_runners_fails_alone():
    """A rollout that kills every worker fails after three attempts; the run goes on."""
    states = []

    async def algorithm(store, event):
        item = await store.enqueue_rollout(1)
        states.extend(await store.wait_for_rollouts(rollout_ids=[item.rollout_id], timeout=40))

    found = execute(algorithm, partial(bundles.run_agents, bundles.AlwaysDies()))
    assert [item.status for item in states] == ["failed"]
    assert found[1][1] == ["interrupted", "interrupted", "harness_error"]


def test_runners_that_cannot_start_end_the_run():
    """When a runner dies again and again, the algorithm is cancelled and the reason raised."""
    with pytest.raises(ExecutionError, match="no licence for this runner"):
        execute(bundles.wait_for_ever, bundles.crash_at_start, crash_budget=1)


def test_a_killed_supervisor_ends_the_run(tmp_path):
    """When the supervisor dies, the runners die with it and the run ends with the reason."""

    async def kill_supervisor(store, event):
        await store.enqueue_rollout(1)
        while not (tmp_path / "agent-1.json").exists():
            await asyncio.sleep(0.02)
        supervisor, _, agents_child = json.loads((tmp_path / "agent-1.json").read_text())
        os.kill(supervisor, signal.SIGKILL)
        os.kill(agents_child, signal.SIGKILL)
        await asyncio.sleep(60)

    with pytest.raises(ExecutionError, match="supervisor of the workers"):
        execute(kill_supervisor, partial(bundles.run_agents, bundles.Sleeps(tmp_path)))
    assert_gone(tmp_path)


def test_errors_of_the_algorithm_come_out():
    """What the algorithm raises is raised after the runners have ended."""
    with pytest.raises(LookupError, match="the algorithm broke"):
        execute(bundles.fail, bundles.wait_for_event, n_runners=2)


def test_the_algorithm_goes_on_after_the_runners():
    """Runners that end by themselves do not end the algorithm."""
    seen = []

    async def slow(store, event):
        await asyncio.sleep(0.5)
        seen.append(event.is_set())

    execute(slow, bundles.leave, n_runners=2)
    assert seen == [False]


def test_work_under_way_is_given_back(tmp_path):
    """When the algorithm ends, rollouts that do not finish in time go back into the queue."""

    async def give_out_and_leave(store, event):
        await store.enqueue_rollout(1)
        while not (tmp_path / "agent-1.json").exists():
            await asyncio.sleep(0.02)

    found = execute(
        give_out_and_leave,
        partial(bundles.run_agents, bundles.Sleeps(tmp_path)),
        graceful_timeout=0.2,
    )
    assert found[1][:2] == ["requeuing", ["interrupted"]]
    assert_gone(tmp_path)


def test_things_that_do_not_pickle_are_refused_under_spawn():
    """A closure cannot be sent to a spawned runner, and the error says what to do."""

    async def closure(store, worker_id, event):
        """Do nothing."""

    with pytest.raises(ConfigurationError, match="top level of a module"):
        execute(bundles.wait_for_ever, closure, start_method="spawn")


def test_the_runner_can_stay_in_the_main_process():
    """With `main_process="runner"` the algorithm and the server are in a child process."""
    seen = []

    class Here(bundles.Echo):
        async def rollout_async(self, task, resources, rollout):
            seen.append(os.getpid())
            return 1.0

    execute(
        partial(bundles.run_tasks, [1, 2]),
        partial(bundles.run_agents, Here()),
        main_process="runner",
        start_method="fork",  # A store in memory cannot be sent to a spawned process.
    )
    assert seen == [os.getpid()] * 2


@pytest.mark.parametrize("start_method", ["fork"])
def test_errors_of_an_algorithm_in_a_child_come_out(start_method):
    """An algorithm that breaks in its own process ends the runner, with its traceback."""
    with pytest.raises(ExecutionError, match="LookupError: the algorithm broke"):
        execute(
            bundles.fail,
            partial(bundles.run_agents, bundles.Echo()),
            main_process="runner",
            start_method=start_method,
        )


def test_the_roles_can_be_started_apart():
    """An algorithm in one place and runners in another meet at the server's port."""
    store = InMemoryLightningStore()
    common = {"server_host": "127.0.0.1", "server_port": free_port(), "graceful_timeout": 5.0}
    runners = ClientServerExecutionStrategy(role="runner", n_runners=2, **common)
    algorithm = ClientServerExecutionStrategy(role="algorithm", **common)
    bundle = partial(bundles.run_agents, bundles.Echo(), max_rollouts=3)
    thread = threading.Thread(target=runners.execute, args=(bundles.fail, bundle, store))
    thread.start()
    algorithm.execute(partial(bundles.run_tasks, range(6)), bundle, store)
    thread.join(30)
    assert not thread.is_alive()
    found = asyncio.run(bundles.collect(store))
    assert {worker for row in found.values() for worker in row[2]} == {"Worker-0", "Worker-1"}
    asyncio.run(store.close())


def start_program(scenario, folder, start_method="fork"):
    """Start a user's program in a process group of its own and wait until its agents run."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.execution.program", scenario, str(folder), start_method],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    wanted = {"blocking": ["started"], "threads": ["agent-1.json"]}.get(
        scenario, ["agent-1.json", "agent-2.json"]
    )
    deadline = time.monotonic() + 40
    while not all((folder / name).exists() for name in wanted):
        if program.poll() is not None or time.monotonic() > deadline:
            os.killpg(program.pid, signal.SIGKILL)
            raise AssertionError(program.communicate()[1].decode())
        time.sleep(0.02)
    if scenario == "blocking":
        time.sleep(1.5)
    return program


def ended(program, timeout=40):
    """Wait for the program; return its exit code and what it said."""
    try:
        code = program.wait(timeout)
    finally:
        # In threads mode the agents' own children are in the program's group; runners never are.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        said = program.communicate(timeout=10)[1].decode()
    return code, said


def assert_gone(folder, timeout=10):
    """No supervisor, runner or child of an agent is alive any more."""
    pids = {pid for note in folder.glob("agent-*.json") for pid in json.loads(note.read_text())}
    assert pids
    deadline = time.monotonic() + timeout
    while alive := {pid for pid in pids - {os.getpid()} if is_alive(pid)}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_killed_main_process_leaves_nobody_behind(tmp_path, start_method):
    """When the main process dies by -9, its supervisor, runners and their children die too."""
    program = start_program("patient", tmp_path, start_method)
    program.kill()
    assert ended(program)[0] == -signal.SIGKILL
    assert_gone(tmp_path)


def test_one_interrupt_ends_in_order(tmp_path):
    """Ctrl-C once: rollouts go back into the queue, nobody is left, the exit code says so."""
    program = start_program("patient", tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    code, said = ended(program)
    assert code not in {0, None}, said
    assert "KeyboardInterrupt" in said
    assert_gone(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    assert {task: row[:2] for task, row in state.items()} == {
        "1": ["requeuing", ["interrupted"]],
        "2": ["requeuing", ["interrupted"]],
    }


def test_one_interrupt_ends_threads_in_order(tmp_path):
    """The threads strategy answers Ctrl-C in the same way."""
    program = start_program("threads", tmp_path)
    program.send_signal(signal.SIGINT)
    code, said = ended(program)
    assert code not in {0, None}, said
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["1"][:2] == ["requeuing", ["interrupted"]]


def test_two_interrupts_end_at_once(tmp_path):
    """Ctrl-C twice: agents that will not stop are killed long before their grace is over."""
    program = start_program("stubborn", tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    time.sleep(0.3)
    assert program.poll() is None
    os.killpg(program.pid, signal.SIGINT)
    code, said = ended(program, timeout=20)
    assert code not in {0, None}, said
    assert_gone(tmp_path)


def test_termination_ends_in_order(tmp_path):
    """SIGTERM is answered like Ctrl-C, with the exit code that shells show for it."""
    program = start_program("patient", tmp_path)
    program.terminate()
    assert ended(program)[0] == 128 + signal.SIGTERM
    assert_gone(tmp_path)


def test_an_algorithm_that_never_gives_way_is_interrupted(tmp_path):
    """Ctrl-C once also ends a program whose algorithm blocks its event loop."""
    program = start_program("blocking", tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    code, said = ended(program, timeout=20)
    assert code not in {0, None}, said
    assert "KeyboardInterrupt" in said


def test_settings_come_from_arguments_then_environment(monkeypatch):
    """Arguments beat the environment, which beats the defaults."""
    strategy = ClientServerExecutionStrategy()
    assert (strategy.role, strategy.server_host, strategy.server_port) == ("both", "localhost", 0)
    assert strategy.managed_store is True
    assert strategy.allowed_exit_codes == (0, -15)
    assert ClientServerExecutionStrategy(role="runner").server_port == 4747
    monkeypatch.setenv("AGL_CURRENT_ROLE", "algorithm")
    monkeypatch.setenv("AGL_SERVER_HOST", "::1")
    monkeypatch.setenv("AGL_SERVER_PORT", "5000")
    monkeypatch.setenv("AGL_MANAGED_STORE", "no")
    strategy = ClientServerExecutionStrategy()
    assert (strategy.role, strategy.server_host, strategy.server_port) == (
        "algorithm", "::1", 5000
    )  # fmt: skip
    assert strategy.managed_store is False
    strategy = ClientServerExecutionStrategy("runner", "h", 1, managed_store=True)
    assert (strategy.role, strategy.server_host, strategy.server_port) == ("runner", "h", 1)


def test_impossible_layouts_are_refused():
    """Unknown roles, no runners, and several runners in the main process are refused."""
    with pytest.raises(ConfigurationError, match="'algorithm', 'runner' or 'both'"):
        ClientServerExecutionStrategy(role="boss")
    with pytest.raises(ConfigurationError, match="n_runners"):
        ClientServerExecutionStrategy(n_runners=0)
    for options in ({"n_runners": 2}, {"role": "algorithm"}):
        with pytest.raises(ValueError, match="main_process='runner'"):
            ClientServerExecutionStrategy(main_process="runner", **options)
