"""Programs as agents: all they need is to read their model's address from the environment.

`agent` is a Python program that knows nothing of us, `curl_agent` a line of shell, and
`claude_agent` Anthropic's coding agent on whatever model is trained.
"""

import sys
from pathlib import Path

import agentlightning as agl

PROGRAM = Path(__file__).with_name("any_program.py")

agent = agl.CommandAgent([sys.executable, str(PROGRAM), "{question}", "{answer}"])

ASK = """\
curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
  -H "authorization: Bearer $OPENAI_API_KEY" -H "content-type: application/json" \
  -d "{\\"model\\": \\"$OPENAI_MODEL\\", \\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": \\"$1\\"}]}" \
  > reply.json
grep -c "$2" reply.json || true
"""

curl_agent = agl.CommandAgent(["sh", "-ec", ASK, "ask", "{question}", "{answer}"])


def holds_the_answer(task: dict, output: dict, directory: Path) -> float:
    """Return 1 if the program said the right number."""
    return float(str(task["answer"]) in output["stdout"])


claude_agent = agl.CommandAgent(
    ["claude", "-p", "{question}", "--allowedTools", "Bash"],
    reward=holds_the_answer,
    environment={
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "ENABLE_TOOL_SEARCH": "false",  # Otherwise tools are sent in a form of Anthropic's own.
    },
    timeout_seconds=300,
)
