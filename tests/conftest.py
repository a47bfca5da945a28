import pytest
import torch


@pytest.fixture(autouse=True)
def nan_in_fresh_memory():
    """Freshly allocated tensors hold NaN: an element that a kernel does not write fails a test."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = before
