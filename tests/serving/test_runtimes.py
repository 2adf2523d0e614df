import subprocess
import sys
import time

import numpy as np
import pytest

from lambda_keras.serving import runtimes
from lambda_keras.serving.run_artefact import run_steps
from lambda_keras.serving.runtimes import RUN_PROGRAM
from lambda_keras.serving.runtimes import Runner
from lambda_keras.serving.runtimes import SavedModelError

pytestmark = pytest.mark.tf_only


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Something small that starts fast: the squares of what it is given."""
    import onnx
    from onnx import helper

    shape = [None, 2]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["images", "images"], ["probabilities"])],
        "squares",
        [helper.make_tensor_value_info("images", 1, shape)],
        [helper.make_tensor_value_info("probabilities", 1, shape)],
    )
    path = tmp_path_factory.mktemp("file") / "squares.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=9), path
    )
    return path


@pytest.fixture
def inputs(tmp_path):
    array = np.arange(10, dtype="float32").reshape(5, 2)
    np.save(tmp_path / "inputs.npy", array)
    return tmp_path / "inputs.npy"


def test_all_of_an_array_is_run_and_part_of_it_is_timed(file, inputs):
    import onnxruntime

    with Runner(runtimes.ONNX_RUNTIME, file) as runner:
        assert runner.version == onnxruntime.__version__
        outputs = runner.predict(inputs, 5, batch_size=2)
        np.testing.assert_array_equal(outputs, np.load(inputs) ** 2)
        assert 0 < runner.run(inputs, batch_size=2, steps=1) < 60


def test_the_process_ends_with_the_block(file):
    with Runner(runtimes.ONNX_RUNTIME, file) as runner:
        assert runner._process.poll() is None
    assert runner._process.poll() is not None


def test_the_process_ends_when_the_one_that_started_it_is_killed(file):
    code = f"""
import time
from lambda_keras.serving.runtimes import Runner
runner = Runner("onnx_runtime", {str(file)!r})
print(runner._process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    pid = int(process.stdout.readline())
    assert is_running(pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(pid)


def is_running(pid):
    import pathlib

    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_does_not_load(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    message = (
        rf"{broken} must run in ONNX Runtime, in a process without Keras. "
        "Received: .*Protobuf parsing failed"
    )
    with pytest.raises(SavedModelError, match=message):
        Runner(runtimes.ONNX_RUNTIME, broken)


def test_what_does_not_run(file, tmp_path):
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((5, 3), "float32"))
    with Runner(runtimes.ONNX_RUNTIME, file) as runner:
        message = "in ONNX Runtime, .* InvalidArgument: .* invalid dimensions"
        with pytest.raises(SavedModelError, match=message):
            runner.predict(wrong, 5, batch_size=5)
        # The process is no more.
        with pytest.raises(SavedModelError, match="must run in ONNX Runtime"):
            runner.predict(wrong, 5, batch_size=5)


def test_a_process_that_has_imported_keras_is_refused(file, inputs):
    code = """
import runpy, sys, types
sys.modules["keras.src"] = types.ModuleType("keras.src")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    task = f'{{"inputs": "{inputs}", "batch_size": 5, "steps": 1, '
    task += '"outputs": null}\n'
    process = subprocess.run(
        [
            *(sys.executable, "-c", code, str(RUN_PROGRAM)),
            *(runtimes.ONNX_RUNTIME, str(file), "-", "images"),
        ],
        input=task,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.endswith("imported after all: keras\n")
    assert "seconds" not in process.stdout


def test_steps_start_again_where_the_inputs_end():
    seconds, outputs = run_steps(lambda x: x, np.arange(5), 2, steps=4)
    assert seconds > 0
    assert [x.tolist() for x in outputs] == [[0, 1], [2, 3], [4], [0, 1]]


def test_what_is_installed(monkeypatch):
    assert runtimes.is_installed(runtimes.TENSORFLOW)
    monkeypatch.setitem(
        runtimes._RUNTIMES, runtimes.LITERT, ("LiteRT", "no_such_package")
    )
    assert not runtimes.is_installed(runtimes.LITERT)
