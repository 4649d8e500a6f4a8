"""Peak of a device: known GPUs, and a measured product."""

import pytest
import torch

from rellm_cache.speed.peak import find_peak, known_tflops


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("Tesla T4", None),
    ],
)
def test_only_the_very_gpu_is_known(name: str, tflops: float | None) -> None:
    assert known_tflops(name) == tflops


def test_a_processor_is_measured() -> None:
    found = find_peak(torch.device("cpu"), torch.float32)
    assert found.operations > 1e8
    assert found.source == "a measured product, 1024 x 1024 float32"


def test_a_known_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rellm_cache.speed.peak.device_name", lambda device: "NVIDIA H200")
    found = find_peak(torch.device("cuda"), torch.bfloat16)
    assert found.operations == 989e12
    assert "data sheet" in found.source
