"""Whether this interpreter can make the project's virtual environment, and what to do if not.

It runs under whatever Python a machine has, so it uses nothing newer than Python 3.6.
"""

import importlib.util
import sys

NEEDED = (3, 11)


def main() -> int:
    """Say what is missing and return 1, or return 0."""
    have = ".".join(str(part) for part in sys.version_info[:2])
    if sys.version_info[:2] < NEEDED:
        print(f"Python 3.11 or newer is needed, {sys.executable} is {have}.")
        print("Point to a newer one: make setup PYTHON=python3.12")
        return 1
    if importlib.util.find_spec("ensurepip") is None:
        print(f"{sys.executable} cannot make virtual environments: its ensurepip is missing.")
        print(f"On Debian and Ubuntu: apt-get install python{have}-venv")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
