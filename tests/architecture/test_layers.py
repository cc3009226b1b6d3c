"""The import contracts of pyproject.toml hold."""

import subprocess
import sys
from pathlib import Path


def test_import_contracts_hold():
    """Imports flow one way, siblings form no cycle, heavy libraries stay in their rooms."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(program), "--no-cache"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout
