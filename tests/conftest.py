"""Every test starts from the same random state and on one thread, so that none depends on another."""

import pytest
import torch


@pytest.fixture(autouse=True)
def deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
