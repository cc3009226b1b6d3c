"""Engine and trainer on this machine's accelerator, beside what its memory and arithmetic allow.

In one call: tokens per second of the engine and of the trainer at several batch sizes, with
adapters and without, and for each the floor: the time that reading the weights and multiplying
alone would take at the speed that the device itself reached a moment before. `--curves` then runs
the learning curves of `benchmarks.curves` on it. Runs on a CPU too; `--tiny` takes seconds.

Usage: `python -m benchmarks.gpu [--model NAME] [--curves calculator routing] [--write "alone"]`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.memory import random_row
from benchmarks.quiet import quiet
from benchmarks.results import print_table, section, write_section

HEADING = "## Engine and trainer on one device"
PROMPT, NEW = 256, 128
TINY_PROMPT, TINY_NEW = 24, 8


@dataclass(frozen=True, slots=True)
class Device:
    """What a device does at its best, measured with torch."""

    name: str
    bytes_per_second: float
    """Copying memory, reads and writes together."""
    flops_per_second: float
    """Multiplying square matrices in the model's number format."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement."""

    title: str
    batch: int
    tokens_per_second: float
    floor: float
    """Tokens per second at the device's best."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def best_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the seconds of the quickest round, after one that warms up."""
    times: list[float] = []
    for _ in range(rounds + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def probe(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Device:
    """Measure a device's memory and arithmetic."""
    big = device.type == "cuda" and not tiny
    words, side = (1 << 28, 8192) if big else (1 << 22, 512)
    source = torch.ones(words, dtype=dtype, device=device)
    target = torch.empty_like(source)
    copying = best_of(lambda: target.copy_(source), device, 5)
    a = torch.ones(side, side, dtype=dtype, device=device)
    multiplying = best_of(lambda: a @ a, device, 5)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Device(name, 2 * source.nbytes / copying, 2 * side**3 / multiplying)


def matmul_parameters(model: Any) -> int:
    """Count the numbers that each token is multiplied with: all but the input embedding."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = sum(p.numel() for p in model.parameters())
    return total if embedding is head else total - embedding.numel()


def engine_floor(model: Any, device: Device, batch: int) -> float:
    """Tokens per second if each step only reads the weights, or only multiplies.

    Decoding reads every weight once for a step of `batch` tokens, and multiplies each with each
    token (2 operations); keys and values are left out, so nothing can be faster.
    """
    n = matmul_parameters(model)
    reading = n * next(model.parameters()).element_size() / device.bytes_per_second
    return batch / max(reading, 2 * n * batch / device.flops_per_second)


def train_floor(model: Any, device: Device, *, lora: bool) -> float:
    """Tokens per second if training only multiplies.

    Forward 2 operations a weight and token, backward 2 for the inputs' gradient, and 2 for the
    weights' where the base is trained.
    """
    return device.flops_per_second / ((4 if lora else 6) * matmul_parameters(model))


def measure_engine(model: Any, device: Device, batch: int, options: Any) -> Figure:
    from agentlightning.engine.request import Request
    from agentlightning.engine.sampler import Sampler
    from agentlightning.engine.sampling import SamplingParams

    prompt, new = (TINY_PROMPT, TINY_NEW) if options.tiny else (PROMPT, NEW)
    sampler = Sampler(
        model,
        max_running=batch,
        max_kv_bytes=4 << 30,
        max_prefix_bytes=1 << 28,
        prefill_tokens=4096,
    )
    ids = torch.randint(0, model.config.vocab_size, (prompt,)).tolist()
    done: list[int] = []

    def work() -> None:
        done.clear()
        for seed in range(batch):
            sampler.add(
                Request(
                    prompt_ids=tuple(ids),
                    params=SamplingParams(),
                    seed=seed,
                    stop_ids=frozenset(),
                    max_tokens=new,
                    on_done=lambda generation: done.append(len(generation.token_ids)),
                    on_error=_fail,
                )
            )
        while sampler.step():
            pass

    took = best_of(work, next(model.parameters()).device, options.rounds)
    return Figure("engine", batch, sum(done) / took, engine_floor(model, device, batch))


def _fail(error: BaseException) -> None:
    raise error


def measure_training(backend: Any, device: Device, batch: int, options: Any) -> Figure:
    """Time steps on rows without common beginnings, so that sharing them flatters nobody."""
    import numpy as np

    from agentlightning.learning.losses import LossSpec
    from agentlightning.learning.rows import RowBatch

    prompt, new = (TINY_PROMPT, TINY_NEW) if options.tiny else (PROMPT, NEW)
    rng = np.random.default_rng(0)
    vocabulary = backend.model.config.vocab_size
    rows = RowBatch(
        tuple(
            random_row(rng, length=prompt + new, trained=new, vocabulary=vocabulary)
            for _ in range(batch)
        )
    )
    where = next(backend.model.parameters()).device
    took = best_of(lambda: backend.step(rows, LossSpec()), where, options.rounds)
    lora = backend.config.lora is not None
    title = "trainer, LoRA r16" if lora else "trainer, every weight"
    floor = train_floor(backend.model, device, lora=lora)
    return Figure(title, batch, rows.n_tokens / took, floor)


def measure(options: Any, source: str) -> tuple[Device, list[Figure]]:
    """Measure everything on one model, loaded afresh for each kind of training."""
    from agentlightning.engine.loading import load_model
    from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend

    figures: list[Figure] = []
    device: Device | None = None
    for lora in (LoraConfig(), None):
        model: Any = load_model(source, dtype=options.dtype, device=options.device).model
        if device is None:
            device = probe(model.device, model.dtype, tiny=options.tiny)
            figures += [measure_engine(model, device, n, options) for n in options.batches]
        backend = TorchTrainBackend(model, config=TorchConfig(lora=lora, lr=1e-6))
        figures += [measure_training(backend, device, n, options) for n in options.batches]
        del model, backend
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    assert device is not None
    return device, figures


def table(figures: Sequence[Figure]) -> list[list[str]]:
    """Return the figures beside their floors."""
    lines = [["", "sequences", "tokens/s", "device's best", "share"]]
    for figure in figures:
        share = figure.tokens_per_second / figure.floor
        lines.append(
            [
                figure.title,
                str(figure.batch),
                f"{figure.tokens_per_second:,.0f}",
                f"{figure.floor:,.0f}",
                f"{share:.0%}",
            ]
        )
    return lines


def run_curves(names: Sequence[str], more: Sequence[str] = ()) -> int:
    """Run learning curves, each in a process of its own; returns 1 if one did not end as it must.

    Args:
        names: Of each curve, or a part of it.
        more: Further arguments for `benchmarks.curves`.
    """
    status = 0
    for name in names:
        command = [sys.executable, "-m", "benchmarks.curves", "--only", name, *more]
        status |= int(subprocess.run(command, check=False).returncode != 0)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return what the learning curves did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a made-up model, to try the program")
    parser.add_argument("--curves", nargs="*", default=[], help="learning curves to run as well")
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    options = parser.parse_args(arguments)
    with quiet(), tempfile.TemporaryDirectory() as directory:
        source = options.model
        if options.tiny:
            from tests.support.tiny_model import make_tiny_model

            source = str(make_tiny_model(directory))
        device, figures = measure(options, source)
    lines = table(figures)
    peak = (
        f"{device.bytes_per_second / 1e9:,.0f} GB/s, {device.flops_per_second / 1e12:,.2f} TFLOP/s"
    )
    print(f"{device.name}: {peak}")
    print_table(lines)
    if options.write:
        notes = (f"{options.model} on {device.name}, which reached {peak}.",)
        text = section(HEADING, "python -m benchmarks.gpu", options.write, lines, notes)
        write_section(HEADING, text)
    return run_curves(options.curves)


if __name__ == "__main__":
    sys.exit(main())
