"""A program that answers one question with the model that its environment names."""

import json
import os
import sys
from urllib.request import Request, urlopen

ENVIRONMENT = os.environ


def main() -> None:
    """Ask the model, and print 1 if the expected answer is in what it says, else 0."""
    question, expected = sys.argv[1:]
    body = {
        "model": ENVIRONMENT["OPENAI_MODEL"],
        "messages": [{"role": "user", "content": question}],
    }
    headers = {
        "Authorization": f"Bearer {ENVIRONMENT['OPENAI_API_KEY']}",
        "Content-Type": "application/json",
    }
    url = ENVIRONMENT["OPENAI_BASE_URL"] + "/chat/completions"
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as answer:
        text = json.load(answer)["choices"][0]["message"]["content"] or ""
    print(text, file=sys.stderr)
    print(int(expected in text))


if __name__ == "__main__":
    main()
