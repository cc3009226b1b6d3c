"""An agent with a calculator, written as anyone would write it with the `openai` package.

It asks the model for an expression, really evaluates it, shows the model the result, and asks
for the answer. The only traces of training are `@agl.rollout` and the endpoint taken from `llm`.
"""

import ast
import operator
import re

from openai import OpenAI

import agentlightning as agl

PROMPT = [
    {"role": "system", "content": "You answer with a calculator."},
    {"role": "user", "content": "What is 3 plus 4?"},
    {"role": "assistant", "content": "<calc>3+4</calc>"},
    {"role": "user", "content": "Result: 7"},
    {"role": "assistant", "content": "Answer: 7"},
    {"role": "user", "content": "What is 12 times 6?"},
    {"role": "assistant", "content": "<calc>12*6</calc>"},
    {"role": "user", "content": "Result: 72"},
    {"role": "assistant", "content": "Answer: 72"},
]

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def calculate(expression: str) -> str:
    """Evaluate +, - and * on whole numbers; anything else is an error the model gets to see."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError(f"cannot calculate {ast.dump(node)}")

    try:
        return str(value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError) as error:
        return f"error: {error}"


@agl.rollout
def calculator_agent(task: dict, llm: agl.LLM) -> float:
    """Answer one question; the reward is 1 for the right number and 0 for anything else."""
    client = OpenAI(base_url=llm.endpoint, api_key=llm.api_key or "-")
    messages = [*PROMPT, {"role": "user", "content": task["question"]}]

    def ask(max_tokens: int) -> str:
        reply = client.chat.completions.create(
            model=llm.model, messages=messages, max_tokens=max_tokens
        )
        content = reply.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": content})
        return content

    call = re.search(r"<calc>(.*?)</calc>", ask(max_tokens=20))
    result = calculate(call.group(1)) if call else "error: no <calc>...</calc> found"
    messages.append({"role": "user", "content": f"Result: {result}"})
    answer = re.search(r"Answer:\s*(-?\d+)", ask(max_tokens=12))
    return float(answer is not None and answer.group(1) == str(task["answer"]))
