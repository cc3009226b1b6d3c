"""`python -m agentlightning.cli`, where the `agl` script is not on the path."""

from agentlightning.cli import run

if __name__ == "__main__":
    run()
