"""The device benchmark: its floors, and all of it once at a tiny size."""

import pytest
import torch

from benchmarks.gpu import Device, engine_floor, main, matmul_parameters, run_curves, train_floor
from tests.learning.tiny import tiny_llama

DEVICE = Device("made up", bytes_per_second=1e9, flops_per_second=1e9)


def test_floors_follow_from_bytes_and_operations():
    """Few sequences are limited by reading weights, many by multiplying; training by the latter."""
    model = tiny_llama(tie=True)
    n = matmul_parameters(model)
    assert n == sum(p.numel() for p in model.parameters())
    assert engine_floor(model, DEVICE, 1) == 1e9 / (4 * n)
    assert engine_floor(model, DEVICE, 100) == pytest.approx(1e9 / (2 * n))
    assert train_floor(model, DEVICE, lora=True) == 1e9 / (4 * n)
    assert train_floor(model, DEVICE, lora=False) == 1e9 / (6 * n)
    untied = tiny_llama()
    embedding = untied.get_input_embeddings().weight.numel()
    assert matmul_parameters(untied) == sum(p.numel() for p in untied.parameters()) - embedding


def test_it_runs_on_this_machine(capsys):
    """One call at tiny size measures engine and both kinds of training."""
    torch.set_num_threads(1)
    assert main(["--tiny", "--device", "cpu", "--batches", "2", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for title in ("engine", "trainer, LoRA r16", "trainer, every weight"):
        assert title in printed


def test_learning_curves_are_asked_for_by_name(tmp_path, capfd):
    """Each in a process of its own; one that nobody knows fails the run and is named."""
    kept = ["--tables", "--results", str(tmp_path / "none.jsonl")]
    assert run_curves(["routing", "sorcery"], kept) == 1
    complaints = capfd.readouterr().err.splitlines()
    assert len(complaints) == 1
    assert "no curve has 'sorcery' in its name; there are: calculator" in complaints[0]
