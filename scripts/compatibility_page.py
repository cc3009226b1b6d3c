"""The page about compatibility with 0.3.0, made from the list that the tests enforce.

Usage: `python -m scripts.compatibility_page` writes `docs/reference/compatibility.md`.
"""

import sys
import tomllib
from collections import defaultdict

from scripts.source import ROOT

PAGE = ROOT / "docs" / "reference" / "compatibility.md"
PENDING = ROOT / "tests" / "compat" / "pending.toml"

HEAD = """\
# Compatibility with 0.3.0

A program written for Agent Lightning 0.3.0 runs on this package unchanged, except for what is listed here. The names and
parameters of the release are compared with ours by a test, and this page is made from its list of exceptions. Bugs of 0.3.0 are
not kept: `cancelled` is final, every ended attempt has an end time, and errors have classes instead of a traceback in the reply.
`import agent_lightning` names the same package.
"""

SECTIONS = {
    "later": ("Not here yet", "Importing these fails, or they are absent where they were."),
    "differs": ("Different on purpose", "These are here, and differ as described."),
    "internal": ("Inner parts of 0.3.0", "Nobody documented these; ours are made differently."),
}


def page(pending: dict[str, dict[str, str]]) -> str:
    """Return the page for a list of exceptions."""
    parts = [HEAD]
    for key, (title, introduction) in SECTIONS.items():
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        for place, reason in pending.get(key, {}).items():
            reasons[reason].append(f"`{readable(place)}`")
        if reasons:
            rows = [f"| {', '.join(places)} | {reason} |" for reason, places in reasons.items()]
            table = "\n".join(["| name | why |", "|---|---|", *rows])
            parts.append(f"## {title}\n\n{introduction}\n\n{table}\n")
    return "\n".join(parts)


def readable(place: str) -> str:
    """Return an entry of the list as a person would write the name."""
    name = place.removeprefix("agentlightning:").removeprefix("agentlightning.").split(" ")[0]
    return name.rstrip("*").rstrip(".:(").replace(":", ".")


def main() -> int:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(tomllib.loads(PENDING.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
