import ctypes

import pytest

from lambda_keras.benchmark import process_memory
from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child

TASKS = "tests.benchmark.child_tasks"


def test_a_figure_is_found_by_its_name(tmp_path):
    path = tmp_path / "status"
    path.write_text("VmPeak:\t 7 kB\nVmHWM:\t     12 kB\n")
    assert process_memory.read_field(path, "VmHWM") == 12 * 1024


def test_other_systems_say_that_they_cannot(tmp_path):
    with pytest.raises(OSError, match="/proc, which only Linux has"):
        process_memory.read_field(tmp_path / "status", "VmHWM")


def test_the_growth_is_of_what_a_call_takes_and_not_of_what_was_there():
    size = 64 << 20
    before = ctypes.create_string_buffer(b"1" * (2 * size))

    def take():
        ctypes.memset(ctypes.create_string_buffer(size), 1, size)

    assert size * 0.9 < process_memory.peak_growth(take) < size * 1.5
    del before


def test_a_limited_process_is_refused_what_the_machine_has_not():
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:take_all_memory")
    assert info.value.reason == OUT_OF_MEMORY
    assert "refused" in info.value.output
