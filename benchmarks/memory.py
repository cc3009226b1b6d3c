"""How much memory training takes, and whether a long run grows.

Parts, each in a process of its own whose largest resident set is what the kernel says:

- `run`: the whole package trains SmolLM2-135M with LoRA (engine, trainer, store, gateway, agents);
- `pack`: one training step whose forward pass is full, 2,048 slots in long conversations;
- `steps`: a tiny model takes 1,000 steps of the whole package, on a store on disk;
- `loop`: the same without store, gateway and agents, as `tests/benchmarks/test_memory.py` has it.

Usage: `python -m benchmarks.memory [--parts run pack steps loop] [--write "quiet machine"]`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from agentlightning._internal.heap import release_free_memory
from agentlightning.progress.base import ProgressSink, RunInfo, StepReport
from benchmarks.quiet import quiet
from benchmarks.results import print_table, section, write_section

HEADING = "## Memory of a training run"
LIMIT_MIB = 3000.0
PARTS = ("run", "pack", "steps", "loop")
MIB = 1 << 20

Found = dict[str, Any]
"""What a part took in MiB: `peak`, `loaded`, `early` and `late`; a list of all that was `seen`."""


def resident() -> float:
    """Return this process's resident memory in MiB; garbage and freed pages are left out.

    The trainer's thread gives freed pages back by itself once a minute, so without this it would
    be chance how many of them are there.
    """
    gc.collect()
    release_free_memory()
    return psutil.Process().memory_info().rss / MIB


def run_part(steps: int) -> Found:
    """Train SmolLM2 with agents over HTTP; the driver is that of the comparison with TRL."""
    del steps
    from benchmarks.trl_driver import run_agents

    run_agents(3)
    return {}


def pack_part(steps: int) -> Found:
    """Train on as many distinct tokens as go into one forward pass."""
    del steps
    import numpy as np
    import torch

    from agentlightning.engine.loading import load_model
    from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
    from agentlightning.learning.losses import LossSpec
    from agentlightning.learning.rows import RowBatch

    torch.manual_seed(0)
    model: Any = load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu").model
    backend = TorchTrainBackend(model, config=TorchConfig(lora=LoraConfig()))
    loaded = resident()
    rng = np.random.default_rng(0)
    rows = [
        random_row(rng, length=512, trained=256, vocabulary=model.config.vocab_size)
        for _ in range(4)
    ]
    backend.step(RowBatch(tuple(rows)), LossSpec())
    return {"loaded": loaded}


def random_row(rng: Any, *, length: int, trained: int, vocabulary: int, group: str = "g") -> Any:
    """Return a row of random tokens whose last ones are trained."""
    import numpy as np

    from agentlightning.learning.rows import TrainRow

    mask = np.arange(length) >= length - trained
    return TrainRow(
        ids=rng.integers(0, vocabulary, length).astype(np.int32),
        mask=mask,
        logp_rollout=np.where(mask, np.float32(np.nan), np.float32(0)).astype(np.float32),
        adv=(mask * np.float32(rng.normal())).astype(np.float32),
        weight=(mask / np.float32(trained)).astype(np.float32),
        versions=np.zeros(length, dtype=np.int32),
        group_id=group,
    )


class Watch(ProgressSink):
    """Notes resident memory every few steps of a fit."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: list[float] = []

    def started(self, info: RunInfo) -> None: ...
    def phase(self, phase: str, done: int = 0, total: int = 0) -> None: ...
    def evaluated(self, *_: Any, **__: Any) -> None: ...
    def warned(self, message: str) -> None: ...
    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None: ...

    def stepped(self, report: StepReport) -> None:
        if report.step % self.every == 0:
            self.seen.append(resident())


def steps_part(steps: int) -> Found:
    """Train a tiny model for many steps with the whole package."""
    import agentlightning as agl
    from agentlightning.store.url import open_store
    from tests.support.tiny_model import make_tiny_model

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=llm.endpoint, api_key="-") as client:
            reply = await client.chat.completions.create(
                model=llm.model, messages=[{"role": "user", "content": task}], max_tokens=4
            )
        return float(len(set(reply.choices[0].message.content or "")))

    watch = Watch(max(1, steps // 10))
    with tempfile.TemporaryDirectory() as directory:
        algorithm = agl.GRPO(
            model=str(make_tiny_model(Path(directory) / "model")),
            group_size=4,
            batch_groups=1,
            steps=steps,
            learning_rate=1e-4,
            lora_rank=None,
            max_tokens=4,
            run_dir=f"{directory}/run",
            checkpoint_every=max(1, steps // 10),
            progress=[watch],
        )
        trainer = agl.Trainer(
            algorithm=algorithm,
            store=open_store(f"sqlite:///{directory}/store.db"),
            n_runners=4,
            concurrency=4,
        )
        trainer.fit(agent, ["hello", "goodbye"])
    return growth(watch.seen)


def loop_part(steps: int) -> Found:
    """Sample and train a tiny model for many steps, without anything around it."""
    return growth([megabytes for _, megabytes in long_loop(steps)])


def long_loop(steps: int) -> Iterator[tuple[int, float]]:
    """Train for so many steps; yield step and resident memory ten times."""
    import numpy as np
    import torch

    from agentlightning.engine.loading import load_model
    from agentlightning.engine.sampler import Sampler
    from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
    from agentlightning.learning.losses import LossSpec
    from agentlightning.learning.rows import RowBatch
    from tests.support.tiny_model import make_tiny_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        model: Any = load_model(make_tiny_model(directory)).model
        backend = TorchTrainBackend(model, config=TorchConfig(lora=LoraConfig(r=4), lr=1e-4))
        sampler = Sampler(
            model,
            max_running=16,
            max_kv_bytes=1 << 24,
            max_prefix_bytes=1 << 20,
            prefill_tokens=512,
        )
        rng, vocabulary = np.random.default_rng(0), int(model.config.vocab_size)
        for step in range(1, steps + 1):
            sample(sampler, rng.integers(0, vocabulary, 24).tolist())
            # Why random lengths: caches by shape would show.
            rows = [
                random_row(rng, length=int(rng.integers(16, 48)), trained=8, vocabulary=vocabulary)
                for _ in range(4)
            ]
            backend.step(RowBatch(tuple(rows)), LossSpec())
            sampler.set_version(step)
            if step % max(1, steps // 10) == 0:
                yield step, resident()


def sample(sampler: Any, prompt: list[int]) -> None:
    """Sample four answers to a prompt, and forget them."""
    from agentlightning.engine.request import Request
    from agentlightning.engine.sampling import SamplingParams

    for seed in range(4):
        sampler.add(
            Request(
                prompt_ids=tuple(prompt),
                params=SamplingParams(),
                seed=seed,
                stop_ids=frozenset(),
                max_tokens=4,
                on_done=lambda _: None,
                on_error=_fail,
            )
        )
    while sampler.step():
        pass


def _fail(error: BaseException) -> None:
    raise error


def growth(seen: Sequence[float]) -> Found:
    """Tell resident memory after a tenth of the steps, at the end, and all along."""
    return {"early": seen[0], "late": seen[-1], "seen": list(seen)}


WORK: dict[str, Callable[[int], Found]] = {
    "run": run_part,
    "pack": pack_part,
    "steps": steps_part,
    "loop": loop_part,
}


def measure(part: str, steps: int) -> Found:
    """Run one part in a fresh process.

    Raises:
        RuntimeError: It failed; the message holds the end of what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--child", part, "--steps", str(steps)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{part} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def titles(steps: int) -> dict[str, str]:
    """Return what each part is called."""
    return {
        "run": "SmolLM2-135M, LoRA r16, whole package, 4 x 8 rollouts a step",
        "pack": "SmolLM2-135M, LoRA r16, one forward pass of 2,048 slots, trainer alone",
        "steps": f"tiny model, {steps} steps of the whole package",
        "loop": f"tiny model, {steps} steps of sampler and trainer",
    }


def notes(found: dict[str, Found], steps: int) -> list[str]:
    """Return what was seen along the way, a line a part."""
    return [
        f"{titles(steps)[part].capitalize()}, MiB after each tenth: "
        + ", ".join(f"{each:.0f}" for each in figures["seen"])
        + "."
        for part, figures in found.items()
        if "seen" in figures
    ]


def table(found: dict[str, Found], steps: int) -> list[list[str]]:
    """Return what each part took."""
    lines = [["", "peak", f"after {max(1, steps // 10)} steps", f"after {steps} steps"]]
    for part, figures in found.items():
        cells = [figures.get(name) for name in ("peak", "early", "late")]
        texts = ["-" if cell is None else f"{cell:,.0f} MiB" for cell in cells]
        lines.append([titles(steps)[part], *texts])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if SmolLM2 took more than 3 GB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    options = parser.parse_args(arguments)
    if options.child:
        with quiet():
            figures = WORK[options.child](options.steps)
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
        print(json.dumps({"peak": peak} | figures))
        return 0
    found = {part: measure(part, options.steps) for part in options.parts}
    lines = table(found, options.steps)
    along = notes(found, options.steps)
    print_table(lines)
    print(*along, sep="\n")
    if options.write:
        text = section(HEADING, "python -m benchmarks.memory", options.write, lines, along)
        write_section(HEADING, text)
    return int(any(found[part]["peak"] > LIMIT_MIB for part in ("run", "pack") if part in found))


if __name__ == "__main__":
    sys.exit(main())
