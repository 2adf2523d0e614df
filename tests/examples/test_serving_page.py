"""The page of examples/serving works, and so do the files beside it."""

import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import requests
from absl import flags
from absl.testing import flagsaver

from lambda_keras.cli import COMMANDS
from lambda_keras.cli import parse
from tests.examples.serving_example import EXAMPLE
from tests.examples.serving_example import ROOT
from tests.examples.serving_example import connect

README = (EXAMPLE / "README.md").read_text()

pytestmark = pytest.mark.tf_only


def test_the_page_works_as_it_is_pasted(
    client, servers, tmp_path, monkeypatch, capsys
):
    """Runs all of its commands; those for servers, on the stand-ins."""
    (_, rest), (_, grpc) = servers["rest"], servers["grpc"]
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    script = "".join(blocks).replace("http://localhost:8501", rest)
    script = script.replace("client.py", f"client.py --server={rest}")
    stand_ins = f"""
        set -euo pipefail
        pip() {{ echo "$*" > pip; }}
        docker() {{ test -f "$3"; }}
        lambda-keras() {{ echo "$*" >> lambda-keras; }}
        python() {{
            case "$*" in
                # Run below, in a process that has TensorFlow.
                *--protocol=grpc*) echo "$*" > grpc ;;
                *) {sys.executable} "$@" ;;
            esac
        }}
    """
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    for version in "12":
        (tmp_path / "models" / "digits" / version).mkdir(parents=True)
    result = subprocess.run(
        ["bash", "-c", stand_ins + script],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('"state": "AVAILABLE"') == 2
    assert result.stdout.count('"status": "ok"') == 1
    assert result.stdout.count("digit.png\tok\t") == 2
    monkeypatch.chdir(tmp_path)
    program, *arguments = (tmp_path / "grpc").read_text().split()
    with flagsaver.flagsaver():
        words = flags.FLAGS([program, *arguments, f"--server={grpc}"])
        assert client.main(words) == 0
    assert capsys.readouterr().out.startswith("digit.png\tok\t")
    commands = (tmp_path / "lambda-keras").read_text().splitlines()
    assert [check_command(command) for command in commands] == [
        "train",
        "export",
        "export",
    ]
    (extras,) = re.findall(r"\[(.*?)\]", (tmp_path / "pip").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def check_command(command):
    """Reads the flags of a `lambda-keras` command; returns its name."""
    name, *arguments = command.split()
    assert parse(COMMANDS[name], name, arguments) is not None
    return name


def test_the_page_says_what_each_status_means():
    from lambda_keras.serving.images import STATUSES

    table = README.partition("| status | |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)) == STATUSES


def test_the_page_says_what_becomes_of_unusual_files():
    from tests.serving.image_files import bad_files
    from tests.serving.image_files import good_files

    table = README.partition("| file | status |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \| `(.*?)` \|", table, re.MULTILINE)
    said = {
        name: status for names, status in rows for name in names.split(", ")
    }
    assert len(rows) == table.count("\n") - 1
    known = dict.fromkeys(good_files(), "ok")
    known |= {name: status for name, (_, status) in bad_files().items()}
    assert said == {name: known[name] for name in said}
    assert {*said.values()} == {*known.values()}


def test_the_page_names_flags_that_exist(client):
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    names = {*re.findall(r"`[^`]*?--(?:no)?(\w+)[^`]*`", text)}
    assert {"max_pixels", "warm_up", "version", "timeout"} <= names
    commands = COMMANDS["export"].settings.__dataclass_fields__
    of_the_server = {"enable_batching", "rest_api_timeout_in_ms"}
    assert names - of_the_server <= {*commands, *flags.FLAGS}


ROW = [[[0, 0, 0]] * 8] * 8
# Request of the page's table, what is asked, inputs over REST and over gRPC.
REFUSED = [
    ("another signature", "serving", {"images": ROW}, np.zeros((1, 8, 8, 3))),
    ("another model or version", "", {"images": ROW}, np.zeros((1, 8, 8, 3))),
    (
        "an input of another name",
        "serving_default",
        {"pictures": ROW},
        np.zeros((1, 8, 8, 3)),
    ),
    (
        "images of another height, width or depth",
        "serving_default",
        {"images": ROW * 2},
        np.zeros((1, 16, 8, 3), "float32"),
    ),
    (
        "one image, in no batch",
        "serving_default",
        {"images": ROW[0]},
        np.zeros((8, 8, 3), "float32"),
    ),
    (
        "text for numbers",
        "serving_default",
        {"images": [[["", "", ""]] * 8] * 8},
        np.full((1, 8, 8, 3), b"", object),
    ),
    (
        "whole numbers for float32",
        "serving_default",
        {"images": ROW},
        np.zeros((1, 8, 8, 3), "int64"),
    ),
    ("no images", "serving_default", None, np.zeros((0, 8, 8, 3), "float32")),
]


@pytest.mark.parametrize(
    ("request_name", "signature", "row", "array"),
    REFUSED,
    ids=[case[0] for case in REFUSED],
)
def test_what_a_bad_request_gets(servers, request_name, signature, row, array):
    cells = re.search(
        rf"^\| {request_name} \| (\d+) \| `(\w+)` \|", README, re.MULTILINE
    ).groups()
    model = "digits" if signature else "letters"
    signature = signature or "serving_default"
    rest = ask_rest(servers["rest"][1], model, signature, row)
    name = next(iter(row)) if row else "images"
    grpc = ask_grpc(servers["grpc"][1], model, signature, name, array)
    assert (str(rest), grpc) == cells


def ask_rest(address, model, signature, row):
    """Returns the status of a request, whatever it is."""
    body = {"signature_name": signature, "instances": [row] if row else []}
    return requests.post(
        f"{address}/v1/models/{model}:predict", json=body, timeout=20
    ).status_code


def ask_grpc(address, model, signature, name, array):
    """Returns the name of the status code of a request."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            stub.Predict(request, timeout=20)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def test_batches_of_the_server_are_those_it_is_warmed_up_with(client):
    from lambda_keras.serving.warm_up import BATCH_SIZES

    text = (EXAMPLE / "batching_parameters.txt").read_text()
    allowed = re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)
    assert tuple(map(int, allowed)) == BATCH_SIZES
    fields = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    # What the server demands of the last.
    assert int(fields["max_batch_size"]) == BATCH_SIZES[-1]
    assert flags.FLAGS["batch_size"].default <= BATCH_SIZES[-1]
    assert {*fields} == {
        "max_batch_size",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }


def test_compose_mounts_what_it_names():
    text = (EXAMPLE / "compose.yaml").read_text()
    assert "image: tensorflow/serving:${SERVING_VERSION:-2." in text
    (parameters,) = re.findall(r"--batching_parameters_file=(\S+)", text)
    mounts = dict(re.findall(r"source: (\S+)\n *target: (\S+)", text))
    assert mounts["./batching_parameters.txt"] == parameters
    assert mounts["${MODELS_DIR:-../../models}"] == "/models"
    for source in mounts:
        default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", source)
        assert (EXAMPLE / default).resolve().is_relative_to(ROOT)
    assert re.findall(r"- 127\.0\.0\.1:(\d+):(\d+)$", text, re.M) == [
        ("8500", "8500"),
        ("8501", "8501"),
    ]


def test_compose_is_yaml():
    yaml = pytest.importorskip("yaml")
    (service,) = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())[
        "services"
    ].values()
    assert service["environment"] == {"MODEL_NAME": "${MODEL_NAME:-digits}"}
    assert all(flag.startswith("--") for flag in service["command"])
    assert service["healthcheck"]["test"][:3] == ["CMD", "bash", "-c"]


@pytest.mark.parametrize(("model", "status"), [("digits", 0), ("letters", 1)])
def test_the_health_check_tells_whether_the_model_is_there(
    servers, model, status
):
    text = (EXAMPLE / "compose.yaml").read_text()
    (check,) = re.findall(r"- >-\n(.*?)\n +interval:", text, re.DOTALL)
    port = servers["rest"][1].rpartition(":")[2]
    check = " ".join(check.split()).replace("$$", "$").replace("8501", port)
    result = subprocess.run(
        ["bash", "-c", check],
        env={**os.environ, "MODEL_NAME": model},
        capture_output=True,
        timeout=20,
    )
    assert result.returncode == status, result.stderr


@pytest.mark.slow
def test_from_training_to_an_answer(client, images, tmp_path):
    """What the page says, with a model that really is trained."""
    from tests.examples.serving_servers import RestServer
    from tests.examples.serving_servers import ServedVersion

    for arguments in (
        "train --epochs=5 --output_dir=runs/digits",
        "export --model=runs/digits --output_dir=models/digits --check",
    ):
        subprocess.run(
            [sys.executable, "-m", "lambda_keras", *arguments.split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=600,
        )
    (code,) = re.findall(r"<<'PYTHON'\n(.*?)PYTHON", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    server = RestServer(ServedVersion(tmp_path / "models" / "digits" / "1"))
    with (
        server.started() as address,
        connect(client, "rest", address) as asking,
    ):
        ((status, labels, _),) = asking.classify(
            [(tmp_path / "digit.png").read_bytes()]
        )
    assert (status, labels[0]) == ("ok", "3")
