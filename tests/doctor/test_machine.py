"""Checks of processor, memory, GPU and 4-bit layers."""

import pytest
import torch

from rellm_cache.doctor import machine
from rellm_cache.doctor.machine import check_four_bits, check_gpu, check_processor
from rellm_cache.utils.devices import machine_memory


def test_a_processor_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: (16e9, 8e9))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    by_name = {check.name: check for check in check_processor()}
    assert {check.status for check in by_name.values()} <= {"ok", "warning"}
    assert by_name["memory"].found == "8.0 of 16.0 GB free"
    assert by_name["threads"].status == "ok"


def test_too_little_memory_and_too_many_threads_are_warnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "machine_memory", lambda: (8e9, 1e9))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    by_name = {check.name: check for check in check_processor()}
    assert by_name["memory"].status == by_name["threads"].status == "warning"
    assert "OMP_NUM_THREADS" in by_name["threads"].fix


def test_a_processor_without_avx2_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"sse2"}))
    by_name = {check.name: check for check in check_processor()}
    assert by_name["instructions"].status == "warning"


def test_a_driver_that_torch_cannot_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    (check,) = check_gpu()
    assert check.status == "error"
    assert "pytorch.org" in check.fix


def test_a_four_bit_layer_computes_on_the_cpu() -> None:
    assert check_four_bits(torch.device("cpu")).status == "ok"


def test_wrong_gradients_of_a_four_bit_layer_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = machine.bitsandbytes.nn.Linear4bit.forward
    monkeypatch.setattr(
        machine.bitsandbytes.nn.Linear4bit, "forward", lambda self, x: 2 * forward(self, x)
    )
    assert check_four_bits(torch.device("cpu")).status == "error"


def test_a_missing_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(machine.bitsandbytes.nn.Linear4bit, "forward", broken)
    check = check_four_bits(torch.device("cpu"))
    assert (check.status, check.found) == ("error", "RuntimeError: no kernel")


def test_free_memory_is_a_part_of_the_memory() -> None:
    total, free = machine_memory()
    assert 0 < free < total
