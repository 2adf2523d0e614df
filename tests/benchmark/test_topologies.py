import keras
import pytest

from lambda_keras.benchmark.topologies import TOPOLOGIES
from lambda_keras.benchmark.topologies import find_topology


@pytest.mark.parametrize(
    ("name", "compiler_name", "devices", "chips", "device"),
    [
        ("v2-8", "v2:2x2", 8, 4, "core"),
        ("v3-8", "v3:2x2", 8, 4, "core"),
        ("v3-32", "v3:4x4", 32, 16, "core"),
        ("v4-8", "v4:2x2x1", 4, 4, "chip"),
        ("v5e-1", "v5e:1x1", 1, 1, "chip"),
        ("v5e-8", "v5e:2x4", 8, 8, "chip"),
        ("v5p-8", "v5:2x2x1", 4, 4, "chip"),
        ("v6e-1", "v6e:1x1", 1, 1, "chip"),
        ("v6e-8", "v6e:2x4", 8, 8, "chip"),
    ],
)
def test_the_number_counts_cores_or_chips(
    name, compiler_name, devices, chips, device
):
    found = find_topology(name)
    assert found.name == name
    assert found.compiler_name == compiler_name
    assert (found.devices, found.chips) == (devices, chips)
    assert found.device == device


@pytest.mark.parametrize("name", ["v2-1", "v3-1"])
def test_a_single_core_is_half_a_chip(name):
    core = find_topology(name)
    assert core.devices == 1
    assert core.chips == 0.5


def test_shapes_have_as_many_chips_as_the_name_says():
    for topology in TOPOLOGIES.values():
        chips = 1
        for side in topology.compiler_name.partition(":")[2].split("x"):
            chips *= int(side)
        number = int(topology.name.partition("-")[2])
        counts_cores = topology.name.startswith(("v2", "v3", "v4", "v5p"))
        if number > 1:
            assert chips == (number // 2 if counts_cores else number), topology


@pytest.mark.parametrize("name", ["v5litepod-8", "V5LITEPOD-8", "V5e-8"])
def test_names_of_other_tools_are_understood(name):
    assert find_topology(name) == TOPOLOGIES["v5e-8"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("v3-16", "v3-1, v3-8, v3-32"),
        ("v5e8", "v5e-8"),
        ("v7x-8", "v6e-8"),
    ],
)
def test_near_names_are_offered(name, near):
    with pytest.raises(ValueError, match=f"{near}.*Received: topology={name}$"):
        find_topology(name)


@pytest.mark.tpu_backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX")
def test_the_compiler_knows_all_of_them(monkeypatch):
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    for topology in TOPOLOGIES.values():
        devices = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.compiler_name,
            chip_config_name=topology.chip_config,
        ).devices
        assert devices[0].device_kind == topology.device_kind, topology
        if topology.chips != 0.5:
            assert len(devices) == topology.devices, topology
