"""Cloud TPUs by the names that people know them by."""

import dataclasses
import difflib

from lambda_keras.benchmark.hardware import TPUS
from lambda_keras.benchmark.hardware import Hardware


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU, and what its compiler calls it.

    Attributes:
        name: As in `v5e-8`.
        compiler_name: The generation and the arrangement of the chips, as in
            `v5e:2x4`.
        device_kind: What JAX calls its devices.
        devices: How many of them a program runs on.
        chip_config: How the compiler is to see a chip, where that is not the
            default.
    """

    name: str
    compiler_name: str
    device_kind: str
    devices: int
    chip_config: str = "default"

    @property
    def hardware(self) -> Hardware:
        """What one device can do."""
        return TPUS[self.device_kind]

    @property
    def device(self) -> str:
        """What one device is: a `"core"` or a `"chip"`."""
        return "core" if self.hardware.devices_per_chip > 1 else "chip"

    @property
    def chips(self) -> float:
        """How many chips that is; one core is half a chip."""
        return self.devices / self.hardware.devices_per_chip


# How the chips are arranged, by the number in the name: cores on v2, v3, v4
# and v5p, chips on v5e and v6e. As Google rents them (https://docs.cloud.
# google.com/tpu/docs/v2 to v6e) and MaxText compiles for them
# (src/maxtext/utils/accelerator_to_spec_map.py). A single core is no TPU that
# one can rent: it is a share of one, without collectives.
_SQUARES = {1: "2x2", 8: "2x2", 32: "4x4", 128: "8x8", 256: "8x16"}
_CHIPS = {
    **{1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"},
    **{128: "8x16", 256: "16x16"},
}
_CUBES = {
    **{8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"},
    **{256: "4x4x8", 512: "4x8x8", 1024: "8x8x8"},
}


def _family(prefix, compiler_prefix, device_kind, shapes, **chip):
    cores_per_device = 2 if shapes is _CUBES else 1
    return {
        f"{prefix}-{number}": Topology(
            name=f"{prefix}-{number}",
            compiler_name=f"{compiler_prefix}:{shape}",
            device_kind=device_kind,
            devices=number // cores_per_device,
            **chip,
        )
        for number, shape in shapes.items()
    }


TOPOLOGIES = {
    **_family("v2", "v2", "TPU v2", {**_SQUARES, 512: "16x16"}),
    **_family(
        "v3",
        "v3",
        "TPU v3",
        {**_SQUARES, 512: "16x16", 1024: "16x32", 2048: "32x32"},
    ),
    # Both cores as one device, as JAX has it on a v4; that is the default of
    # the later ones.
    **_family("v4", "v4", "TPU v4", _CUBES, chip_config="megacore"),
    **_family("v5e", "v5e", "TPU v5 lite", _CHIPS),
    **_family("v5p", "v5", "TPU v5", _CUBES),
    **_family("v6e", "v6e", "TPU v6 lite", _CHIPS),
}


def find_topology(name: str) -> Topology:
    """Looks a TPU up by name.

    Args:
        name: One of `TOPOLOGIES`. `v5litepod-8`, as Google's tools have it,
            is `v5e-8`.

    Returns:
        A `Topology`.

    Raises:
        ValueError: If there is no such TPU here.

    Example:

    >>> find_topology("v3-8").devices, find_topology("v4-8").devices
    (8, 4)
    """
    known = name.lower().replace("v5litepod", "v5e")
    if known not in TOPOLOGIES:
        generation = f"{known.partition('-')[0]}-"
        near = [one for one in TOPOLOGIES if one.startswith(generation)]
        near = near or difflib.get_close_matches(known, TOPOLOGIES, 4, cutoff=0)
        raise ValueError(
            f"Expected a TPU such as {', '.join(near)}. "
            f"Received: topology={name}"
        )
    return TOPOLOGIES[known]
