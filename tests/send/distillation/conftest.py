"""Teachers for small students."""

import copy

import pytest
import torch


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports nothing then


@pytest.fixture
def teacher(tiny_model):
    """Of the class of the student, and of its size, with other weights."""
    other = copy.deepcopy(tiny_model)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng))
    return other


@pytest.fixture
def folder(teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"
