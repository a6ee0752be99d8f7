"""The table of docs/arms.md is what the files of results say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_of_arms_is_made_from_the_results():
    folders = [ROOT / "benchmarks" / "results" / name for name in ("arms_feedforward", "arms_ep")]
    command = [sys.executable, str(ROOT / "benchmarks" / "arms_table.py"), *map(str, folders)]
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
