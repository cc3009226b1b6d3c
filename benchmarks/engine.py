"""Compare our sampler with transformers' own batching on SmolLM2-135M.

Run `OMP_WAIT_POLICY=passive python benchmarks/engine.py` (two minutes). Every method samples the
same prompts at temperature 1 and returns the log-probabilities of what it sampled; the padded
`generate` returns none and is there for scale. CPU seconds count where other work shares the
machine. The first, untimed round of each method pays for warming up.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
import warnings
from collections.abc import Callable, Sequence

import torch

from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.engine.request import Generation, Request
from agentlightning.engine.sampler import Sampler
from agentlightning.engine.sampling import SamplingParams

Prompts = list[list[int]]
Method = Callable[[Prompts, int], list[list[int]]]
"""Samples so many tokens after each prompt and returns them."""

SHOTS = ((12, 7), (81, 9))
SYSTEM = (
    "You answer every question about numbers with exactly one calculator expression, written "
    "between calc tags, and with nothing else: no explanation, no result, no greeting."
)


def prompt(loaded: LoadedModel, question: str) -> list[int]:
    messages = [{"role": "system", "content": SYSTEM}]
    for a, b in SHOTS:
        messages.append({"role": "user", "content": f"What is {a} times {b}?"})
        messages.append({"role": "assistant", "content": f"<calc>{a}*{b}</calc>"})
    messages.append({"role": "user", "content": question})
    text = loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    return loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def ours(model: torch.nn.Module) -> Method:
    sampler = Sampler(
        model,
        max_running=64,
        max_kv_bytes=4 << 30,
        max_prefix_bytes=1 << 30,
        prefill_tokens=2048,
    )

    def run(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        done: dict[int, Generation] = {}
        for key, ids in enumerate(prompts):
            sampler.add(
                Request(
                    prompt_ids=tuple(ids),
                    params=SamplingParams(),
                    seed=time.perf_counter_ns(),
                    stop_ids=frozenset(),
                    max_tokens=new_tokens,
                    on_done=lambda generation, key=key: done.__setitem__(key, generation),
                    on_error=print,
                )
            )
        while sampler.step():
            pass
        return [list(done[key].token_ids) for key in range(len(prompts))]

    return run


def continuous_batching(model: torch.nn.Module) -> Method:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = ContinuousBatchingConfig(
        num_blocks=64, page_size=64, max_batch_tokens=1024, return_logprobs=True
    )

    def run(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        generation = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1
        )
        outputs = model.generate_batch(
            prompts,
            generation_config=generation,
            continuous_batching_config=settings,
            persistent_manager=True,
            warmup=False,
        )
        ordered = sorted(outputs.items(), key=lambda item: int(item[0].rsplit("_", 1)[-1]))
        return [output.generated_tokens for _, output in ordered]

    return run


def padded(model: torch.nn.Module, pad: int) -> Method:
    def run(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=pad,
            )
        return out[:, width:].tolist()

    return run


def measure(name: str, work: Callable[[int], int], rounds: int) -> None:
    """Print the best round of `work`, which takes a round number and returns tokens sampled."""
    results: list[tuple[float, float, int]] = []
    for number in range(rounds + 1):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = work(number)
        results.append((time.process_time() - cpu, time.perf_counter() - wall, tokens))
    cpu, wall, tokens = min(results[1:])
    print(
        f"  {name:34} {tokens:5d} tokens  {tokens / wall:6.0f} tok/s  "
        f"{tokens / cpu:6.0f} tok/cpu-s  {cpu:6.2f} cpu-s",
        flush=True,
    )


def groups(loaded: LoadedModel, number: int) -> Prompts:
    """Return 4 prompts, 8 times each; other ones in every round."""
    asked = [prompt(loaded, f"What is {37 + number * 4 + i} times {12 + i}?") for i in range(4)]
    return [ids for ids in asked for _ in range(8)]


def turns(loaded: LoadedModel, method: Method, number: int) -> int:
    """Let 8 conversations of one task take 4 turns each; returns the tokens sampled."""
    talks = [prompt(loaded, f"What is {number} plus {i // 4}?") for i in range(8)]
    follow = loaded.tokenizer("\nuser\nAnd then?\nassistant\n", add_special_tokens=False)
    sampled = 0
    for _ in range(4):
        answers = method(talks, 24)
        sampled += sum(map(len, answers))
        talks = [
            [*talk, *answer, *follow["input_ids"]]
            for talk, answer in zip(talks, answers, strict=True)
        ]
    return sampled


def with_lora(model: torch.nn.Module) -> torch.nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = inject_adapter_in_model(
        LoraConfig(r=16, lora_alpha=32, target_modules=targets), model
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.01)
    return adapted.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--parts", nargs="+", default=["groups", "turns", "lora"])
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    loaded = load_model("smollm2-135m-instruct", dtype=options.dtype)
    pad = loaded.tokenizer.pad_token_id
    print(f"{loaded.name} {loaded.model.dtype}, {options.threads} threads")
    print(f"4 prompts x 8 samples, {len(groups(loaded, 0)[0])} prompt tokens")

    def grouped(method: Method, new_tokens: int) -> Callable[[int], int]:
        return lambda number: sum(map(len, method(groups(loaded, number), new_tokens)))

    mine = ours(loaded.model)
    paged = continuous_batching(load_model("smollm2-135m-instruct", dtype=options.dtype).model)
    dense = padded(loaded.model, pad)
    for new_tokens in (14, 32) if "groups" in options.parts else ():
        print(f" {new_tokens} new tokens")
        measure("ours", grouped(mine, new_tokens), options.rounds)
        measure("transformers continuous batching", grouped(paged, new_tokens), options.rounds)
        measure("transformers generate, padded", grouped(dense, new_tokens), options.rounds)
    if "turns" in options.parts:
        print("8 conversations x 4 turns, 24 new tokens a turn")
        measure("ours", lambda n: turns(loaded, mine, n), options.rounds)
        measure(
            "transformers continuous batching", lambda n: turns(loaded, paged, n), options.rounds
        )
    if "lora" in options.parts:
        print("LoRA r=16 on all linear layers, fp32 on the base, 14 new tokens")
        measure("ours, no LoRA", grouped(mine, 14), options.rounds)
        measure("ours", grouped(ours(with_lora(loaded.model)), 14), options.rounds)


if __name__ == "__main__":
    main()
