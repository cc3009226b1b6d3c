"""Compare our sampler with transformers' generate and continuous batching on SmolLM2-135M.

Run `OMP_WAIT_POLICY=passive python -m benchmarks.engine` (five minutes); `--write CIRCUMSTANCES` puts
the table into RESULTS.md. Every method samples the same prompts at temperature 1, by the same
weights in bf16. Ours and continuous batching return the log-probabilities of what they sampled;
`generate`, with its prompts padded to one batch and its cache on, returns none. CPU seconds count,
as other work shares the machine; of several rounds the best one does.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Sequence

import torch

from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.engine.request import Generation, Request
from agentlightning.engine.sampler import Sampler
from agentlightning.engine.sampling import SamplingParams
from agentlightning.learning.lora import LoraConfig, activate_adapter, inject_lora
from benchmarks.quiet import quiet
from benchmarks.results import print_table, section, write_section

HEADING = "## Engine"
Prompts = list[list[int]]
Method = Callable[[Prompts, int], list[list[int]]]
"""Samples so many tokens after each prompt and returns them."""
Work = Callable[[Method, int], int]
"""Samples with a method what a round's number says; returns the tokens sampled."""
NOTES = (
    "Temperature 1, bf16, the same prompts. Ours and continuous batching return log-probabilities, "
    "`generate` (padded to one batch, cache on) none. Adapters: rank 16 on all linear layers, fp32, "
    "unmerged. In a group the prompt is computed once; unrelated prompts are mostly prefill, in which "
    "both are near what the processor can multiply. Log-probabilities of engine and trainer differ by "
    "2.3e-5 at most in fp32, three adapters in one batch; in bf16 by 0.02 on average and 0.6 at most, "
    "which the anchored ratio corrects for.",
)

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


def ours(model: torch.nn.Module, adapters: Sequence[str | None] = (None,)) -> Method:
    """Return our sampler; the rows take turns with the adapters."""
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
                    adapter=adapters[key % len(adapters)],
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


def groups(loaded: LoadedModel, number: int) -> Prompts:
    """Return 4 prompts, 8 times each; other ones in every round."""
    asked = [prompt(loaded, f"What is {37 + number * 4 + i} times {12 + i}?") for i in range(4)]
    return [ids for ids in asked for _ in range(8)]


def strangers(loaded: LoadedModel, number: int) -> Prompts:
    """Return 32 prompts of one length that begin differently."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(100, 40_000, (32, len(groups(loaded, 0)[0])), generator=generator)
    return ids.tolist()


def grouped(loaded: LoadedModel, new_tokens: int) -> Work:
    return lambda method, number: sum(map(len, method(groups(loaded, number), new_tokens)))


def strange(loaded: LoadedModel, new_tokens: int) -> Work:
    return lambda method, number: sum(map(len, method(strangers(loaded, number), new_tokens)))


def turns(loaded: LoadedModel) -> Work:
    """Let 8 conversations of two tasks take 4 turns each."""
    follow = loaded.tokenizer("\nuser\nAnd then?\nassistant\n", add_special_tokens=False)

    def work(method: Method, number: int) -> int:
        talks = [prompt(loaded, f"What is {number} plus {i // 4}?") for i in range(8)]
        sampled = 0
        for _ in range(4):
            answers = method(talks, 24)
            sampled += sum(map(len, answers))
            talks = [
                [*talk, *answer, *follow["input_ids"]]
                for talk, answer in zip(talks, answers, strict=True)
            ]
        return sampled

    return work


_rounds = itertools.count()
"""No round repeats another's prompts, whichever method it is for."""


def rate(method: Method, work: Work, rounds: int) -> float:
    """Return tokens per CPU second of the best round, after a short one that warms up."""
    method([[1, 2, 3, 4]] * 4, 2)
    work(method, next(_rounds))
    best = 0.0
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        tokens = work(method, next(_rounds))
        best = max(best, tokens / (time.process_time() - began))
    return best


def with_lora(model: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """Put adapters into a model, rank 16 on all linear layers in fp32, that change something."""
    inject_lora(model, LoraConfig(), names)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.01)
    activate_adapter(model, names[0])
    return model.eval()


def compare(dtype: str, rounds: int, only: str) -> list[list[str]]:
    """Return the table; each line is one kind of work."""
    loaded = load_model("smollm2-135m-instruct", dtype=dtype)
    pad: int = loaded.tokenizer.pad_token_id
    bare = (ours(loaded.model), padded(loaded.model, pad))
    paged = continuous_batching(load_model("smollm2-135m-instruct", dtype=dtype).model)
    adapted = with_lora(load_model("smollm2-135m-instruct", dtype=dtype).model, ["default", "b"])
    lora = (ours(adapted), padded(adapted, pad))
    width = len(groups(loaded, 0)[0])
    measures: list[tuple[str, tuple[Method, Method], Method | None, Work]] = [
        (f"4 prompts of {width} tokens x 8, 14 new", bare, paged, grouped(loaded, 14)),
        ("the same, 64 new", bare, None, grouped(loaded, 64)),
        (f"32 prompts of {width} random tokens, 32 new", bare, None, strange(loaded, 32)),
        ("8 conversations x 4 turns, 24 new each", bare, paged, turns(loaded)),
        ("4 prompts x 8, 14 new, LoRA", lora, None, grouped(loaded, 14)),
        ("the same, 64 new", lora, None, grouped(loaded, 64)),
        ("two adapters by turns, 64 new", (ours(adapted, ("default", "b")), lora[1]), None,
         grouped(loaded, 64)),
    ]  # fmt: skip
    lines = [["tokens per CPU second", "ours", "`generate`", "ratio", "continuous batching"]]
    for title, (mine, plain), other, work in measures:
        if only in title:
            own, theirs = rate(mine, work, rounds), rate(plain, work, rounds)
            third = f"{rate(other, work, rounds):.0f}" if other else "not run"
            lines.append([title, f"{own:.0f}", f"{theirs:.0f}", f"{own / theirs:.1f}", third])
            print(" ", *lines[-1], sep="  ", flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--only", default="", help="only lines whose title has this part")
    parser.add_argument("--write", metavar="CIRCUMSTANCES", help="also write RESULTS.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with quiet():
        lines = compare(options.dtype, options.rounds, options.only)
    print_table(lines)
    if options.write:
        circumstances = f"SmolLM2-135M, {options.threads} thread(s), {options.write}"
        command = "OMP_WAIT_POLICY=passive python -m benchmarks.engine"
        write_section(HEADING, section(HEADING, command, circumstances, lines, NOTES))


if __name__ == "__main__":
    main()
