"""A task that a model of 130 thousand parameters learns from scratch: which tool for which topic.

Run as a program, it trains in the directory it is given, and can be killed and run again.
"""

import argparse
from pathlib import Path

from openai import OpenAI

import agentlightning as agl
from tests.support.tiny_model import EOS, make_tiny_model

TOOLS = {"search": "who", "calculator": "sum", "weather": "rain", "calendar": "today"}
CLIENT = OpenAI(base_url="http://unused", api_key="-", max_retries=0)
"""One for all rollouts: making a client costs more than a call of this model."""


def tasks(count: int) -> list[dict]:
    """Return `count` tasks, all tools equally often."""
    pairs = list(TOOLS.items())
    return [
        {"topic": topic, "tool": tool}
        for index in range(count)
        for tool, topic in [pairs[index % len(pairs)]]
    ]


@agl.rollout
def pick_tool(task: dict, llm: agl.LLM) -> float:
    """Ask for a tool; 1 for the right one, 0 for any other answer."""
    client = CLIENT.with_options(base_url=llm.endpoint)
    reply = client.chat.completions.create(
        model=llm.model, messages=[{"role": "user", "content": task["topic"]}], max_tokens=2
    )
    return float((reply.choices[0].message.content or "").strip() == task["tool"])


def make_untrained_model(path: Path) -> Path:
    """Write a model that answers with one tool: the right one three times in ten, a certain wrong
    one five times.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_model(path, words=[*TOOLS, *TOOLS.values()])
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tools = list(TOOLS)
    answers = {
        topic: [*tools, *[right] * 2, *[tools[(tools.index(right) + 1) % len(tools)]] * 4]
        for right, topic in TOOLS.items()
    }
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": topic}], add_generation_prompt=True, tokenize=False
        )
        + tool
        + EOS
        for topic, given in answers.items()
        for tool in given
    ]
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False) for text in texts])
    labels = ids.clone()
    labels[:, :-2] = -100
    torch.manual_seed(0)
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return path


def make_trainer(
    model: Path, run_dir: Path, *, strategy: str, steps: int, **settings
) -> agl.Trainer:
    """Return a trainer for the task.

    The rate is one at which all four topics are learnt: at 2e-3 one run in twenty-five drops the
    right tool of a topic for good (with or without a restart), and its reward stays near 0.7.
    """
    fields = {
        "model": str(model),
        "model_alias": "tiny",
        "group_size": 8,
        "batch_groups": 8,
        "steps": steps,
        "learning_rate": 1e-3,
        "advantage_scale": "group",
        "lora_rank": None,
        "max_tokens": 2,
        "run_dir": str(run_dir),
    }
    return agl.Trainer(
        algorithm=agl.GRPO(progress=[], **(fields | settings)),
        strategy=strategy,
        n_runners=2,
        concurrency=16,
    )


def main() -> None:
    """Train; `--strategy cs` uses processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--strategy", default="cs")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    trainer = make_trainer(
        options.model, options.run_dir, strategy=options.strategy, steps=options.steps
    )
    trainer.fit(pick_tool, tasks(64), val_dataset=tasks(8))


if __name__ == "__main__":
    main()
