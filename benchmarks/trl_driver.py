"""One side of `trl.py`: train SmolLM2 on one task, and print a line of JSON for each step.

Sides: `trl` is TRL's GRPOTrainer; `loop` our sampler and train backend, called as TRL calls its
own parts; `agents` the whole package, with agents that call the model over HTTP.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.quiet import quiet

MODEL = "smollm2-135m-instruct"
GROUPS, MEMBERS, NEW_TOKENS = 4, 8, 14
RANK, ALPHA, LEARNING_RATE = 16, 32, 2e-4
OPERATORS = {"plus": "+", "minus": "-", "times": "*"}
SHOTS: tuple[tuple[int, str, int], ...] = ((12, "times", 7), (81, "plus", 9))
SYSTEM = (
    "You answer every question about numbers with exactly one calculator expression, written "
    "between calc tags, and with nothing else: no explanation, no result, no greeting."
)
Message = dict[str, str]
Task = list[Any]
"""Number, word, number."""


class Clock:
    """Prints what each step took, wall time and CPU time of this process."""

    def __init__(self) -> None:
        self.step = 0
        self._last = (time.perf_counter(), time.process_time())

    def lap(self, reward: float, tokens: float, **more: float) -> None:
        """End a step."""
        now = (time.perf_counter(), time.process_time())
        wall, cpu = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        self.step += 1
        line = {"step": self.step, "wall": wall, "cpu": cpu, "reward": reward, "tokens": tokens}
        print(json.dumps(line | more), flush=True)


def questions(steps: int) -> list[Task]:
    """Return what to ask, the same for every side."""
    rng = random.Random(0)
    words = sorted(OPERATORS)
    return [
        [rng.randrange(11, 99), words[number % len(words)], rng.randrange(11, 99)]
        for number in range(steps * GROUPS)
    ]


def messages(task: Task) -> list[Message]:
    found = [{"role": "system", "content": SYSTEM}]
    for a, word, b in SHOTS:
        found.append({"role": "user", "content": f"What is {a} {word} {b}?"})
        found.append({"role": "assistant", "content": f"<calc>{a}{OPERATORS[word]}{b}</calc>"})
    return [*found, {"role": "user", "content": "What is {} {} {}?".format(*task)}]


def score(text: str, task: Task) -> float:
    """1 for the right expression between tags, and nothing else."""
    a, word, b = task
    return float("".join(text.split()) == f"<calc>{a}{OPERATORS[word]}{b}</calc>")


def trl_config(directory: str, steps: int) -> Any:
    """Return TRL's settings, with what costs it least where it changes nothing."""
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=GROUPS * MEMBERS,
        num_generations=MEMBERS,
        max_completion_length=NEW_TOKENS,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        beta=0.0,
        epsilon_high=0.28,
        loss_type="grpo",
        scale_rewards="none",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_strategy="no",
        report_to=[],
        seed=0,
    )


def run_trl(steps: int) -> None:
    """Train with TRL's GRPOTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    from agentlightning.engine.loading import load_model

    loaded = load_model(MODEL, dtype="bfloat16", device="cpu")
    clock, seen = Clock(), {"reward": 0.0, "tokens": 0.0}

    def reward(
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        task: list[Task],
        **_: Any,
    ) -> list[float | None]:
        found = [score(c[0]["content"], t) for c, t in zip(completions, task, strict=True)]
        seen["reward"] = sum(found) / len(found)
        seen["tokens"] = float(sum(map(len, completion_ids)))
        return [*found]

    class Laps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.lap(**seen)

    with tempfile.TemporaryDirectory() as directory:
        tasks = [
            {"prompt": messages(task), "task": [str(part) for part in task]}
            for task in questions(steps)
        ]
        trainer = GRPOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            args=trl_config(directory, steps),
            train_dataset=Dataset.from_list(tasks),
            processing_class=loaded.tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Laps()],
        )
        trainer.train()


def run_loop(steps: int) -> None:
    """Train with our sampler and backend."""
    from agentlightning.engine.loading import load_model
    from agentlightning.engine.sampler import Sampler
    from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
    from agentlightning.learning.losses import LossSpec

    torch.manual_seed(0)
    loaded = load_model(MODEL, dtype="bfloat16", device="cpu")
    backend = TorchTrainBackend(
        loaded.model,
        config=TorchConfig(lora=LoraConfig(r=RANK, alpha=ALPHA), lr=LEARNING_RATE),
    )
    sampler = Sampler(
        loaded.model,
        max_running=64,
        max_kv_bytes=1 << 30,
        max_prefix_bytes=1 << 28,
        prefill_tokens=2048,
    )
    clock, tasks = Clock(), questions(steps)
    for step in range(steps):
        began = time.process_time()
        rollouts = _sample(sampler, loaded.tokenizer, tasks[step * GROUPS : (step + 1) * GROUPS])
        sampled = time.process_time() - began
        batch = _batch(rollouts)
        rewards = [reward for _, reward, _ in rollouts]
        if batch.n_trained:
            backend.step(batch, LossSpec())
            sampler.set_version(step + 1)
        tokens = sum(len(done.token_ids) for done, _, _ in rollouts)
        clock.lap(sum(rewards) / len(rewards), tokens, sample_cpu=sampled)


def _sample(sampler: Any, tokenizer: Any, tasks: list[Task]) -> list[Any]:
    """Answer each question, and return (generation, reward, group)."""
    from agentlightning.engine.request import Generation, Request
    from agentlightning.engine.sampling import SamplingParams

    done: dict[int, Generation] = {}
    for group, task in enumerate(tasks):
        text = tokenizer.apply_chat_template(
            messages(task), add_generation_prompt=True, tokenize=False
        )
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        for member in range(MEMBERS):
            key = group * MEMBERS + member
            sampler.add(
                Request(
                    prompt_ids=ids,
                    params=SamplingParams(),
                    seed=random.getrandbits(32),
                    stop_ids=frozenset({tokenizer.eos_token_id}),
                    max_tokens=NEW_TOKENS,
                    on_done=lambda generation, key=key: done.__setitem__(key, generation),
                    on_error=_fail,
                )
            )
    while sampler.step():
        pass
    found: list[Any] = []
    for key in range(len(done)):
        text = tokenizer.decode(list(done[key].token_ids), skip_special_tokens=True)
        found.append((done[key], score(text, tasks[key // MEMBERS]), key // MEMBERS))
    return found


def _fail(error: BaseException) -> None:
    raise error


def _batch(rollouts: list[Any]) -> Any:
    from agentlightning.adapter.token_tree import build_token_rows
    from agentlightning.learning.batch import ScoredRollout, build_batch
    from agentlightning.types import CallChoice, CallRecord

    scored: list[ScoredRollout] = []
    for number, (done, reward, group) in enumerate(rollouts):
        name = f"ro-{number}"
        choice = CallChoice(token_ids=list(done.token_ids), logprobs=list(done.logprobs))
        call = CallRecord(
            call_id=f"ca-{number}",
            rollout_id=name,
            attempt_id="at-0",
            prompt_token_ids=list(done.prompt_ids),
            choices=[choice],
            start_time=0.0,
            end_time=1.0,
        )
        rows, _ = build_token_rows([call])
        scored.append(
            ScoredRollout(rollout_id=name, group_id=f"g-{group}", rows=rows, reward=reward)
        )
    return build_batch(scored)[0]


def run_agents(steps: int) -> None:
    """Train with the whole package: trainer, store, runners, gateway, agents over HTTP."""
    import agentlightning as agl
    from agentlightning.progress.base import ProgressSink, RunInfo, StepReport

    clock = Clock()

    class Laps(ProgressSink):
        def started(self, info: RunInfo) -> None: ...
        def phase(self, phase: str, done: int = 0, total: int = 0) -> None: ...
        def evaluated(
            self, step: int, reward: float, tasks: int, seconds: float, *, metrics: object = None
        ) -> None: ...
        def warned(self, message: str) -> None: ...
        def ended(self, *, interrupted: bool, next_steps: list[str]) -> None: ...

        def stepped(self, report: StepReport) -> None:
            clock.lap(report.reward, report.metrics["training/n_sampled_tokens"])

    @agl.rollout
    async def agent(task: dict[str, Any], llm: agl.LLM) -> float:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=llm.endpoint, api_key="-") as client:
            reply = await client.chat.completions.create(
                model=llm.model,
                messages=messages(task["question"]),  # pyright: ignore[reportArgumentType]  # plain dictionaries
                max_tokens=NEW_TOKENS,
            )
        return score(reply.choices[0].message.content or "", task["question"])

    with tempfile.TemporaryDirectory() as directory:
        algorithm = agl.GRPO(
            model=MODEL,
            group_size=MEMBERS,
            batch_groups=GROUPS,
            steps=steps,
            learning_rate=LEARNING_RATE,
            lora_rank=RANK,
            lora_alpha=ALPHA,
            max_tokens=NEW_TOKENS,
            run_dir=f"{directory}/run",
            checkpoint_every=steps,
            progress=[Laps()],
        )
        trainer = agl.Trainer(algorithm=algorithm, n_runners=32, concurrency=32)
        trainer.fit(agent, [{"question": question} for question in questions(steps)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("trl", "loop", "agents"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sides = {"trl": run_trl, "loop": run_loop, "agents": run_agents}
    with quiet():
        sides[options.side](options.steps)


if __name__ == "__main__":
    main()
