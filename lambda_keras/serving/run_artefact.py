"""Runs what was exported in its runtime, where Keras cannot be imported.

Run by its path, so that the package around it is not imported either; see
`runtimes.Runner`, which tells it what to do:

    python -P run_artefact.py RUNTIME PATH SIGNATURE INPUT

Each line of standard input is a task in JSON; the answers are lines of
standard output.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time

import numpy as np

FORBIDDEN = ("keras", "lambda_keras", "tf_keras")
OUTPUT = "probabilities"


def load_tensorflow(path, signature, input_name):
    """Loads a SavedModel with plain TensorFlow."""
    import tensorflow as tf

    serve = tf.saved_model.load(path).signatures[signature]
    ((name, spec),) = serve.structured_input_signature[1].items()

    def predict(batch):
        outputs = serve(**{name: tf.constant(batch, spec.dtype)})
        return _choose(outputs).numpy()

    return predict, tf.__version__


def load_saved_model_cli(path, signature, input_name):
    """Prepares TensorFlow's program, whose session is that of a server."""
    (program,) = importlib.metadata.entry_points(
        group="console_scripts", name="saved_model_cli"
    )
    run = program.load()

    def predict(batch):
        with tempfile.TemporaryDirectory() as scratch:
            inputs = os.path.join(scratch, "inputs.npy")
            np.save(inputs, batch)
            sys.argv = [
                *("saved_model_cli", "run", "--dir", path),
                *("--tag_set", "serve", "--signature_def", signature),
                *("--inputs", f"{input_name}={inputs}", "--outdir", scratch),
            ]
            try:
                run()
            except SystemExit as end:
                if end.code:
                    raise
            return np.load(os.path.join(scratch, f"{OUTPUT}.npy"))

    return predict, importlib.metadata.version("tensorflow")


def load_openvino(path, signature, input_name):
    """Loads OpenVINO's own format, or a SavedModel."""
    import openvino

    core = openvino.Core()
    # It would compute in bfloat16 where the processor has that.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(path), "CPU", exact)
    version = openvino.__version__.partition("-")[0]
    return lambda batch: model({input_name: batch})[OUTPUT], version


def load_onnx_runtime(path, signature, input_name):
    """Loads an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )

    def predict(batch):
        (output,) = session.run([OUTPUT], {input_name: batch})
        return output

    return predict, onnxruntime.__version__


def load_litert(path, signature, input_name):
    """Loads a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=_cores())
    (inputs,) = interpreter.get_input_details()
    (outputs,) = interpreter.get_output_details()
    shape = None

    def predict(batch):
        nonlocal shape
        if batch.shape != shape:
            interpreter.resize_tensor_input(inputs["index"], batch.shape)
            interpreter.allocate_tensors()
            shape = batch.shape
        interpreter.set_tensor(inputs["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return predict, importlib.metadata.version("ai-edge-litert")


LOADERS = {
    "tensorflow": load_tensorflow,
    "saved_model_cli": load_saved_model_cli,
    "openvino": load_openvino,
    "onnx_runtime": load_onnx_runtime,
    "litert": load_litert,
}


def main(runtime: str, path: str, signature: str, input_name: str) -> None:
    """Loads, and then runs batches as each task says."""
    # Libraries may print what is no answer: to the other stream with it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # TensorFlow imports Keras by itself where it can. None makes every import
    # of a module fail, so the model runs without these or not at all.
    sys.modules.update(dict.fromkeys(FORBIDDEN))  # type: ignore[arg-type]

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    try:
        predict, version = LOADERS[runtime](path, signature, input_name)
        answer(version=version)
        arrays: dict[str, np.ndarray] = {}
        for line in sys.stdin:
            task = json.loads(line)
            name = task["inputs"]
            if name not in arrays:
                arrays[name] = np.load(name)
            seconds, outputs = run_steps(
                predict, arrays[name], task["batch_size"], task["steps"]
            )
            if task["outputs"]:
                np.save(task["outputs"], np.concatenate(outputs))
            _check_imports()
            answer(seconds=seconds)
    except Exception as error:
        reason = " ".join(str(error).split())
        answer(error=f"{type(error).__name__}: {reason}")
        raise


def run_steps(predict, inputs, batch_size, steps):
    """Runs batch by batch, from the start again where the inputs end.

    Args:
        predict: A function of a batch.
        inputs: An array.
        batch_size: How many of it to run at once.
        steps: How many batches.

    Returns:
        The seconds it took, and the outputs of each batch.
    """
    batches = -(-len(inputs) // batch_size)
    outputs = []
    started = time.perf_counter()
    for step in range(steps):
        start = step % batches * batch_size
        outputs.append(predict(inputs[start : start + batch_size]))
    return time.perf_counter() - started, outputs


def _choose(outputs):
    if OUTPUT in outputs:
        return outputs[OUTPUT]
    (output,) = outputs.values()
    return output


def _cores():
    # By default LiteRT takes one thread, and the others one for each core.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _check_imports():
    loaded = {
        name.partition(".")[0]
        for name, module in sys.modules.items()
        if module is not None and name.partition(".")[0] in FORBIDDEN
    }
    if loaded:
        raise SystemExit(f"imported after all: {', '.join(sorted(loaded))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
