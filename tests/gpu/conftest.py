"""Tests that need a GPU, which only ``-m gpu`` lets them see.

Without one they are not collected; DLM_TEST_DEVICE=cpu tries them out all the same.
"""

import os

import pytest
import torch

DEVICE = torch.device(os.environ.get("DLM_TEST_DEVICE", "cuda"))

collect_ignore_glob = [] if DEVICE.type == "cpu" or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture
def device() -> torch.device:
    return DEVICE
