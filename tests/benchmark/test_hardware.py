import pytest

from lambda_keras.benchmark.hardware import GPUS
from lambda_keras.benchmark.hardware import TPUS
from lambda_keras.benchmark.hardware import find_hardware


def test_figures_are_those_that_are_published():
    v5e = find_hardware("TPU v5 lite")
    assert v5e.name == "TPU v5e"
    assert v5e.flops_per_second == 197e12
    assert v5e.bytes_per_second == 819e9
    assert "docs.cloud.google.com" in v5e.source
    assert v5e.devices_per_chip == 1


@pytest.mark.parametrize(
    ("name", "teraflops", "gigabytes_per_second"),
    [("TPU v2", 23, 350), ("TPU v3", 61.5, 450)],
)
def test_a_core_has_half_of_a_chip(name, teraflops, gigabytes_per_second):
    core = find_hardware(name)
    assert core.devices_per_chip == 2
    assert core.flops_per_second == teraflops * 1e12
    assert core.bytes_per_second == gigabytes_per_second * 1e9


@pytest.mark.parametrize(
    ("name", "teraflops", "gigabytes_per_second"),
    [
        ("TPU v4", 275, 1200),
        ("TPU v5", 459, 2765),
        ("TPU v6 lite", 918, 1638),
    ],
)
def test_later_chips_are_one_device(name, teraflops, gigabytes_per_second):
    chip = find_hardware(name)
    assert chip.devices_per_chip == 1
    assert chip.flops_per_second == teraflops * 1e12
    assert chip.bytes_per_second == gigabytes_per_second * 1e9


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("TPU v5e", "TPU v5 lite"),
        ("TPU v5p", "TPU v5"),
        ("TPU v6e", "TPU v6 lite"),
    ],
)
def test_other_names_of_jax_are_known(other, name):
    assert find_hardware(other) == TPUS[name]


@pytest.mark.parametrize(
    ("device_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("Tesla V100-SXM2-16GB", "V100 SXM"),
        ("Tesla V100-SXM3-32GB-H", "V100 SXM 32 GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ],
)
def test_gpus_are_found_by_what_drivers_call_them(device_name, name):
    assert find_hardware(device_name).name == name


@pytest.mark.parametrize(
    "device_name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA L40",
        "TPU v99",
        "cpu",
        "",
    ],
)
def test_another_device_is_not_taken_for_one_that_is_known(device_name):
    assert find_hardware(device_name) is None


def test_every_device_has_all_figures():
    for hardware in [*TPUS.values(), *GPUS.values()]:
        assert 20e12 < hardware.flops_per_second < 1e15, hardware
        # Operations for each byte: from 66 of a TPU v2 to 560 of a v6e.
        balance = hardware.flops_per_second / hardware.bytes_per_second
        assert 60 < balance < 600, hardware
        assert hardware.source
