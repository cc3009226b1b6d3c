"""What exact histories cost: rows from calls, and prompts from messages.

Run `python -m benchmarks.rows [--calls 30] [--prompt 8000] [--tokenizer DIRECTORY]`. Times are CPU
times of this thread, the least of several runs. "merging" prompts extend one another; "forking"
ones change an earlier answer each time. With a tokenizer, a conversation of as many turns is also
rendered: by the template alone, and spliced.
"""

import argparse
import random
import time
from collections.abc import Callable

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.types import CallChoice, CallRecord

ANSWER = 60
REPEATS = 15


def make_calls(calls: int, prompt: int, *, forking: bool) -> list[CallRecord]:
    """Return the calls of one conversation whose prompts have `prompt` tokens on average."""
    rng = random.Random(0)
    history = [rng.randrange(150_000) for _ in range(200)]
    step = (2 * prompt - 200) // calls - ANSWER
    records: list[CallRecord] = []
    for number in range(calls):
        answer = [rng.randrange(150_000) for _ in range(ANSWER)]
        record = CallRecord(
            call_id=f"ca-{number}",
            rollout_id="ro-1",
            attempt_id="at-1",
            prompt_token_ids=history,
            choices=[CallChoice(token_ids=answer, logprobs=[-0.5] * ANSWER)],
            start_time=number,
            end_time=number,
        )
        # Through JSON, as from a store: no two calls share their numbers.
        records.append(CallRecord.model_validate_json(record.model_dump_json()))
        history = history + answer + [rng.randrange(150_000) for _ in range(step)]
        if forking:
            history[-step - ANSWER // 2] = 7
    return records


def least(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of the quickest run."""
    times: list[float] = []
    for _ in range(REPEATS):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return 1e3 * min(times)


def measure_rows(calls: int, prompt: int) -> None:
    for name, forking in (("merging", False), ("forking", True)):
        records = make_calls(calls, prompt, forking=forking)
        tokens = sum(len(record.prompt_token_ids) + ANSWER for record in records)
        took = least(lambda given=records: build_token_rows(given))
        rows = len(build_token_rows(records)[0])
        speed = tokens / took / 1e3
        print(f"{name}: {tokens:,} ids, {rows} rows, {took:.1f} ms, {speed:.0f} M ids/s")


def measure_prompts(directory: str, calls: int, prompt: int) -> None:
    from transformers import AutoTokenizer

    from agentlightning.engine.history.splicer import HistorySplicer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "word " * ((2 * prompt) // calls - 20)
    for name, conversation in (("template", None), ("exact", "c")):
        splicer = HistorySplicer(tokenizer, end_ids=frozenset({tokenizer.eos_token_id}))
        messages = [{"role": "user", "content": text}]
        took = 0.0
        for _ in range(calls):
            began = time.thread_time()
            plan = splicer.plan(conversation, messages)
            took += time.thread_time() - began
            said = {"role": "assistant", "content": "yes"}
            splicer.remember(plan, said, [*tokenizer("yes")["input_ids"], tokenizer.eos_token_id])
            messages += [said, {"role": "user", "content": text}]
        print(f"{name}: {calls} prompts of up to {len(plan.ids):,} ids, {1e3 * took:.0f} ms")


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--prompt", type=int, default=8000, help="tokens of a prompt, on average")
    parser.add_argument("--tokenizer", help="directory of a tokenizer with a chat template")
    options = parser.parse_args()
    measure_rows(options.calls, options.prompt)
    if options.tokenizer:
        measure_prompts(options.tokenizer, options.calls, options.prompt)


if __name__ == "__main__":
    main()
