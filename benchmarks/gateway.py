"""What a gateway adds to a model call: latency, time to the first token, and requests per second
and core; ours, 0.3.0's proxy and LiteLLM's, in one run.

A null model server, the gateway and the load each run in processes of their own; the server answers
at once, so that everything measured is overhead. Our calls are recorded with ids and
log-probabilities before their answers leave; LiteLLM's proxy records nothing.

Usage: `python benchmarks/gateway.py [--quick] [--reference PYTHON] [--litellm PYTHON]
[--write "quiet machine"]`
"""

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gateway_load import (
    Target,
    Upstream,
    call,
    connect,
    measure_latency,
    measure_rate,
)
from benchmarks.results import print_table, section, write_section

DRIVER = Path(__file__).with_name("gateway_driver.py")
HEADING = "## Gateway"
COMMAND = "python benchmarks/gateway.py --reference <python> --litellm <python>"
NOTES = (
    "Answers of 64 tokens, streams of 64 events and more; what is added is beside the same call "
    "made directly, by turns.",
    "Single clients mostly pay for waking up.",
)
CLIENTS = (1, 16, 64)
START_SECONDS = 120.0
COLUMNS = ("", "added, p50", "p99", "TTFT added", "clients", "req/s", "req/s per core")


@contextlib.contextmanager
def driven(python: str, subject: str, upstream: int) -> Iterator[tuple[Target, psutil.Process]]:
    """Run one subject of the driver."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if python == sys.executable:
        environment["PYTHONPATH"] = str(DRIVER.parents[1])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [python, str(DRIVER), subject, str(upstream)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            told = read_json(process.stdout)
            if told is None:
                log.seek(0)
                raise SystemExit(f"{subject} did not start:\n{log.read()[-3000:].decode()}")
            yield Target(told["port"], told["path"]), psutil.Process(process.pid)
            process.stdin.close()
            print(f"  {subject}: {read_json(process.stdout)}", file=sys.stderr)
        finally:
            end(process)


@contextlib.contextmanager
def litellm_proxy(python: str, upstream: int) -> Iterator[tuple[Target, psutil.Process]]:
    """Run LiteLLM's own proxy, with nothing attached to it."""
    from benchmarks.gateway_driver import free_port

    params = {"model": "hosted_vllm/m", "api_base": f"http://127.0.0.1:{upstream}/v1"}
    config = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    key = f"sk-{secrets.token_hex(32)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config))
        port = free_port()
        environment = {
            **os.environ,
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [Path(python).with_name("litellm"), "--config", path, "--port", str(port), "--host", "127.0.0.1"],
                env=environment,
                stdout=output,
                stderr=output,
            )  # fmt: skip
        target = Target(port, "/v1/chat/completions", {"authorization": f"Bearer {key}"})
        try:
            wait_until_it_answers(target, process, log)
            yield target, psutil.Process(process.pid)
        finally:
            end(process)


def wait_until_it_answers(target: Target, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            call(connect(target.port), target.request(stream=False))
        except (OSError, AssertionError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"LiteLLM did not start:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.5)
        else:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate() if process.stdin is None else process.wait(20)
        process.wait(20)
    for left in [process, *children]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def read_json(lines: Any) -> Any:
    """Return the next line that is JSON; None at the end."""
    for line in lines:
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def milliseconds(value: float) -> str:
    return f"{1e3 * value:.2f} ms"


def measure(
    title: str, direct: Target, target: Target, process: psutil.Process, seconds: float
) -> Iterator[list[str]]:
    """Yield the table's rows of one subject."""
    for stream in (False, True):
        straight, through = measure_latency([direct, target], seconds, stream=stream)
        base = statistics.median(whole for _, whole in straight)
        whole = [each for _, each in through]
        added = milliseconds(statistics.median(whole) - base)
        slowest = milliseconds(statistics.quantiles(whole, n=100)[98])
        first = "—"
        if stream:
            paced = measure_latency([direct, target], seconds, stream=True, paced=True)
            ours, theirs = (statistics.median(f for f, _ in times) for times in reversed(paced))
            first = milliseconds(ours - theirs)
        for clients in CLIENTS:
            before = cpu_seconds(process)
            count, took = measure_rate(target, seconds, clients, stream=stream)
            cpu = cpu_seconds(process) - before
            name = f"{title}, {'streamed' if stream else 'whole'}"
            latency = (name, added, slowest, first) if clients == CLIENTS[0] else ("", "", "", "")
            yield [*latency, str(clients), f"{count / took:,.0f}", f"{count / cpu:,.0f}"]


def run(options: argparse.Namespace) -> list[list[str]]:
    seconds = 0.3 if options.quick else options.seconds
    rows: list[list[str]] = []
    with Upstream() as port:
        direct = Target(port, "/v1/chat/completions")
        subjects: list[tuple[str, Any]] = [
            ("ours, memory", lambda: driven(sys.executable, "memory", port)),
            ("ours, SQLite", lambda: driven(sys.executable, "sqlite", port)),
        ]
        if options.reference:
            subjects.append(("0.3.0", lambda: driven(options.reference, "reference", port)))
        if options.litellm:
            subjects.append(("LiteLLM", lambda: litellm_proxy(options.litellm, port)))
        for title, start in subjects:
            if options.only and options.only not in title:
                continue
            with start() as (target, process):
                for row in measure(title, direct, target, process, seconds):
                    rows.append(row)
                    print("  ".join(f"{cell:>14}" for cell in row), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="hardly anything of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--only", help="only subjects whose title has this part")
    parser.add_argument("--reference", help="an interpreter that has agentlightning==0.3.0")
    parser.add_argument("--litellm", help="an interpreter that has litellm[proxy]")
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    options = parser.parse_args()
    lines = [list(COLUMNS), *run(options)]
    print_table(lines)
    if options.write:
        write_section(HEADING, section(HEADING, COMMAND, options.write, lines, NOTES))


if __name__ == "__main__":
    main()
