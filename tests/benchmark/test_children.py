import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lambda_keras.benchmark.children import OUT_OF_MEMORY
from lambda_keras.benchmark.children import Child
from lambda_keras.benchmark.children import ChildError
from lambda_keras.benchmark.children import call_in_child
from tests.benchmark import child_tasks

TASKS = "tests.benchmark.child_tasks"


def test_a_function_is_called_in_another_process():
    answer = call_in_child(f"{TASKS}:add", a=1, b=2.5)
    assert answer["sum"] == 3.5
    assert answer["process"] != os.getpid()


def test_variables_are_set_for_the_child_alone(monkeypatch):
    monkeypatch.setenv("HERE", "inherited")
    answer = call_in_child(
        f"{TASKS}:tell_environment",
        environment={"THERE": "set"},
        names=["HERE", "THERE", "NOWHERE"],
    )
    assert answer == ["inherited", "set", None]
    assert "THERE" not in os.environ


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("fail", {"kind": "MemoryError", "message": ""}),
        (
            "fail_like_xla",
            {"message": "RESOURCE_EXHAUSTED: Out of memory while trying to"},
        ),
        ("kill", {"signal_name": "SIGKILL"}),
        ("end", {"status": 1, "words": "CUDA_ERROR_OUT_OF_MEMORY: of 80 GB"}),
        ("end", {"status": 134, "words": "what(): std::bad_alloc"}),
    ],
    ids=["MemoryError", "XLA", "SIGKILL", "CUDA", "C++"],
)
def test_out_of_memory_is_recognized(task, arguments):
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:{task}", **arguments)
    assert info.value.reason == OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("task", "arguments", "reason"),
    [
        (
            "fail",
            {"kind": "ValueError", "message": "two\n  lines"},
            "ValueError: two lines",
        ),
        ("kill", {"signal_name": "SIGSEGV"}, "killed by SIGSEGV"),
        ("end", {"status": 3, "words": "no device\n"}, "no device"),
        ("end", {"status": 3, "words": ""}, "exit status 3"),
        (
            "return_a_set",
            {},
            "TypeError: Object of type set is not JSON serializable",
        ),
        (
            "nothing",
            {},
            f"AttributeError: module '{TASKS}' has no attribute 'nothing'",
        ),
    ],
)
def test_other_failures_are_told_in_a_line(task, arguments, reason):
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:{task}", **arguments)
    assert info.value.reason == str(info.value) == reason


def test_what_a_failed_child_wrote_is_kept():
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:fail", kind="ValueError", message="wrong")
    assert "Traceback" in info.value.output
    assert "in fail\n" in info.value.output
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:kill", signal_name="SIGKILL")
    assert "about to die" in info.value.output


def test_words_about_memory_count_only_in_the_error():
    # Allocators complain of what they then get by another way.
    with pytest.raises(ChildError) as info:
        call_in_child(f"{TASKS}:complain_and_fail")
    assert info.value.reason == "ValueError: something else"


def test_a_child_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    told, processes = [], []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            processes.append(self)

    monkeypatch.setattr("subprocess.Popen", Popen)
    with pytest.raises(ChildError, match=r"^took longer than 0\.3 s$"):
        call_in_child(
            f"{TASKS}:wait",
            timeout=0.3,
            tell=told.append,
            path=str(tmp_path / "number"),
        )
    assert [each.returncode for each in processes] == [-signal.SIGKILL]
    assert told and told == sorted(told)


def test_a_child_ends_with_a_block_that_fails(tmp_path):
    def interrupt(seconds):
        if (tmp_path / "number").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_in_child(
            f"{TASKS}:wait", tell=interrupt, path=str(tmp_path / "number")
        )
    assert not is_alive(int((tmp_path / "number").read_text()))


def test_a_child_ends_with_its_parent(tmp_path):
    path = tmp_path / "number"
    parent = subprocess.Popen([sys.executable, child_tasks.__file__, path])
    child = wait_for(lambda: path.exists() and int(path.read_text()))
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_for(lambda: not is_alive(child))


def test_a_child_that_stays_keeps_its_state():
    with Child() as child:
        (first,) = child.call(f"{TASKS}:count")
        assert child.call(f"{TASKS}:count") == [first, first]
        assert is_alive(first)
    assert not is_alive(first)


def test_after_a_failure_the_next_call_has_a_new_process():
    with Child() as child:
        (first,) = child.call(f"{TASKS}:count")
        with pytest.raises(ChildError, match="ValueError: wrong"):
            child.call(f"{TASKS}:fail", kind="ValueError", message="wrong")
        assert not is_alive(first)
        assert child.call(f"{TASKS}:count") != [first, first]


def test_a_child_that_waits_takes_no_time_of_the_processor():
    def used(number):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2]
        return sum(map(int, fields.split()[11:13]))

    with Child() as child:
        (number,) = child.call(f"{TASKS}:count")
        before = used(number)
        time.sleep(0.5)
        assert used(number) - before <= 1


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    call_in_child(f"{TASKS}:add", a=1, b=2)
    assert not any(tmp_path.iterdir())


def is_alive(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError
