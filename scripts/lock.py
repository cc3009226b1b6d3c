"""The pins of what is installed now, as a constraints file for pip.

Constraints do not install anything, so pins of one platform do no harm on another. Builds for a
certain device are left out of versions: pip takes the one its machine is configured for.
"""

import re
import sys
from importlib.metadata import distributions

HEADER = "# Pins for development and CI, made by `make lock`; pip reads them as constraints.\n"
TOOLS = {"pip", "setuptools", "uv", "wheel", "agentlightning"}


def pins() -> list[str]:
    """Return `name==version` of every installed distribution, sorted."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in TOOLS:
            found[name] = distribution.version.partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    """Print the file."""
    sys.stdout.write(HEADER + "\n".join(pins()) + "\n")


if __name__ == "__main__":
    main()
