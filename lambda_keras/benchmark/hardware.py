"""What devices can do at most, by their makers' figures."""

import dataclasses
import re

_GB, _TERA = 10**9, 10**12

_TPU_DOCS = "https://docs.cloud.google.com/tpu/docs"
# Jouppi and others, "A domain-specific supercomputer for training deep neural
# networks", Communications of the ACM 63 (7), 2020: the table of its chips.
_TPU_V2 = "https://doi.org/10.1145/3360307"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A device, as the engines count devices.

    Attributes:
        name: What people call it.
        flops_per_second: Of dense matrix products in bfloat16 with sums in
            float32; in float16 where the device has no bfloat16. A
            multiplication and an addition are two.
        bytes_per_second: Between the device and its own memory.
        source: Where the maker publishes these figures.
        devices_per_chip: 2 where the engines take the cores of a chip for
            devices; the figures are then a core's, half of the published.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    source: str
    devices_per_chip: int = 1


def _tpu(name, teraflops, gigabytes_per_second, source, cores=1):
    return Hardware(
        name=name,
        flops_per_second=teraflops * _TERA / cores,
        bytes_per_second=gigabytes_per_second * _GB / cores,
        source=source,
        devices_per_chip=cores,
    )


def _gpu(name, teraflops, gigabytes_per_second, source):
    return Hardware(
        name=name,
        flops_per_second=teraflops * _TERA,
        bytes_per_second=gigabytes_per_second * _GB,
        source=source,
    )


# By what JAX calls them: the teraflops and bandwidth of a chip.
TPUS = {
    "TPU v2": _tpu("TPU v2 core", 46, 700, _TPU_V2, cores=2),
    "TPU v3": _tpu("TPU v3 core", 123, 900, f"{_TPU_DOCS}/v3", cores=2),
    "TPU v4": _tpu("TPU v4", 275, 1200, f"{_TPU_DOCS}/v4"),
    "TPU v5 lite": _tpu("TPU v5e", 197, 819, f"{_TPU_DOCS}/v5e"),
    "TPU v5": _tpu("TPU v5p", 459, 2765, f"{_TPU_DOCS}/v5p"),
    "TPU v6 lite": _tpu("TPU v6e", 918, 1638, f"{_TPU_DOCS}/v6e"),
}
# And by what some of its releases do.
_ALIASES = {
    "TPU v5e": "TPU v5 lite",
    "TPU v5p": "TPU v5",
    "TPU v6e": "TPU v6 lite",
}

# Data sheets and architecture papers of NVIDIA, by title. Where a data sheet
# gives teraflops "with sparsity", half of them stand here.
_H100, _H200 = "NVIDIA H100 datasheet", "NVIDIA H200 datasheet"
_A100, _V100 = "NVIDIA A100 datasheet", "NVIDIA V100 datasheet"
_TURING = "NVIDIA Turing GPU architecture, appendix on the Tesla T4"
_GA102 = "NVIDIA Ampere GA102 GPU architecture"
_ADA = "NVIDIA Ada GPU architecture"

# By what drivers call them, as patterns of the whole name: an H100 that is
# partitioned, or the GPU of a laptop, is another device.
GPUS = {
    r"NVIDIA H200": _gpu("H200", 989, 4800, _H200),
    r"NVIDIA H100 80GB HBM3": _gpu("H100 SXM", 989, 3350, _H100),
    r"NVIDIA GH200 480GB": _gpu("GH200", 990, 4000, "NVIDIA GH200 datasheet"),
    r"NVIDIA H100 NVL": _gpu("H100 NVL", 835, 3900, _H100),
    r"NVIDIA H100 PCIe": _gpu("H100 PCIe", 756, 2000, _H100),
    r"NVIDIA A100-SXM4-80GB": _gpu("A100 SXM 80 GB", 312, 2039, _A100),
    r"NVIDIA A100 80GB PCIe": _gpu("A100 PCIe 80 GB", 312, 1935, _A100),
    r"(NVIDIA )?A100-(SXM4|PCIE)-40GB": _gpu("A100", 312, 1555, _A100),
    r"Tesla V100-SXM\d-16GB.*": _gpu("V100 SXM", 125, 900, _V100),
    r"Tesla V100-SXM\d-32GB.*": _gpu("V100 SXM 32 GB", 125, 900, _V100),
    r"Tesla V100-PCIE-16GB": _gpu("V100 PCIe", 112, 900, _V100),
    r"Tesla V100-PCIE-32GB": _gpu("V100 PCIe 32 GB", 112, 900, _V100),
    r"NVIDIA L4": _gpu("L4", 121, 300, "NVIDIA L4 datasheet"),
    r"NVIDIA L40S": _gpu("L40S", 362, 864, "NVIDIA L40S datasheet"),
    r"NVIDIA A10": _gpu("A10", 125, 600, "NVIDIA A10 datasheet"),
    r"NVIDIA A10G": _gpu("A10G", 70, 600, "NVIDIA A10G datasheet, of AWS"),
    r"(Tesla|NVIDIA) T4": _gpu("T4", 65, 320, _TURING),
    r"NVIDIA GeForce RTX 3080": _gpu("RTX 3080", 59.5, 760, _GA102),
    r"NVIDIA GeForce RTX 3090": _gpu("RTX 3090", 71, 936, _GA102),
    r"NVIDIA GeForce RTX 4080": _gpu("RTX 4080", 97.5, 717, _ADA),
    r"NVIDIA GeForce RTX 4090": _gpu("RTX 4090", 165.2, 1008, _ADA),
}


def find_hardware(device_name: str) -> Hardware | None:
    """Looks up what a device can do at most.

    Args:
        device_name: What the engine calls it: JAX's `device.device_kind` or
            TensorFlow's `device_name`.

    Returns:
        A `Hardware`, or None if the device is not known here.

    Example:

    >>> find_hardware("TPU v5 lite").flops_per_second / 1e12
    197.0
    >>> find_hardware("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    True
    """
    device_name = _ALIASES.get(device_name, device_name)
    if device_name in TPUS:
        return TPUS[device_name]
    for pattern, hardware in GPUS.items():
        if re.fullmatch(pattern, device_name):
            return hardware
    return None


def share_of_peak(
    flops_per_second: float, device_name: str, count: int, precision: str
) -> float | None:
    """Returns what part of their most devices are made to do.

    Args:
        flops_per_second: What all of them do together.
        device_name: As `find_hardware` takes it.
        count: The number of devices.
        precision: `"bf16"`, in which the peaks are known, or another one.

    Returns:
        The part, or None where the peak is not known.

    Example:

    >>> share_of_peak(98.5e12, "TPU v5 lite", 1, "bf16")
    0.5
    """
    hardware = find_hardware(device_name)
    if hardware is None or precision != "bf16":
        return None
    return flops_per_second / (hardware.flops_per_second * count)
