"""Every test starts from the same random state and on one thread, so that none depends on another."""

import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is imported: its kernels then run on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Learners and training loops that only the benchmarks use are tested where they are.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(autouse=True)
def deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
