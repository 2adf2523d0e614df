"""What the client of examples/serving sends, and what it makes of answers."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from tests.examples.serving_example import CLASSES
from tests.examples.serving_example import ROOT
from tests.examples.serving_example import connect

pytestmark = pytest.mark.tf_only


def run_program(*arguments):
    return subprocess.run(
        [sys.executable, "examples/serving/client.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


# What is sent.


def test_requests_are_what_the_signature_takes(client, server, served, images):
    protocol, server, address = server
    with connect(client, protocol, address) as asking:
        asking.classify(images)
    (request,) = server.requests
    assert request.model_spec.name == "digits"
    assert not request.model_spec.HasField("version")
    assert request.model_spec.signature_name == "serving_bytes"
    ((name, sent),) = request.inputs.items()
    assert list(sent.string_val) == images
    definition = served.signatures["serving_bytes"]
    assert definition.inputs[name].dtype == sent.dtype
    assert set(client.OUTPUTS) <= set(definition.outputs)


def test_both_protocols_get_what_the_saved_model_answers(
    client, servers, served, images
):
    from tests.serving.runtimes import as_batch

    expected = served.session.ask("serving_bytes", as_batch(images))
    for protocol, (_, address) in servers.items():
        with connect(client, protocol, address) as asking:
            answers = asking.classify(images)
        statuses, labels, scores = zip(*answers)
        assert set(statuses) == {"ok"}
        assert [
            [name.encode() for name in names] for names in labels
        ] == expected["labels"].tolist()
        np.testing.assert_allclose(scores, expected["scores"], rtol=1e-6)


def test_a_bad_image_is_told_apart_from_the_good_ones(client, server, images):
    protocol, _, address = server
    page = b"<!DOCTYPE html><title>404</title>"
    with connect(client, protocol, address) as asking:
        alone = asking.classify(images[:1])
        answers = asking.classify([images[0], page, b"", images[0][:999]])
    assert [status for status, _, _ in answers] == [
        "ok",
        "unsupported format",
        "empty",
        "unreadable",
    ]
    assert answers[:1] == alone
    for _, labels, scores in answers[1:]:
        assert set(labels) == {""}
        assert set(scores) == {0.0}


def test_a_version_can_be_asked_for(client, server, images):
    protocol, server, address = server
    with connect(client, protocol, address, version=1) as asking:
        assert len(asking.classify(images)) == len(images)
    assert server.requests[0].model_spec.version.value == 1
    with (
        connect(client, protocol, address, version=7) as asking,
        pytest.raises(client.RequestError, match=r"Specific\(digits, 7\)"),
    ):
        asking.classify(images)


# Retries and timeouts.


def test_unavailable_servers_are_asked_again(client, server, images):
    protocol, server, address = server
    server.faults.extend(["unavailable"] * 2)
    begin = time.monotonic()
    with connect(client, protocol, address) as asking:
        # gRPC by itself keeps no more to send again.
        assert sum(map(len, images)) > 256 << 10
        assert len(asking.classify(images)) == len(images)
    assert len(server.requests) == 3
    # The server said to come back in a minute.
    assert time.monotonic() - begin < 30


def test_retries_come_to_an_end(client, server, images):
    protocol, server, address = server
    server.faults.extend(["unavailable"] * 9)
    with (
        connect(client, protocol, address, retries=1) as asking,
        pytest.raises(client.RequestError, match="batch scheduling queue"),
    ):
        asking.classify(images)
    assert len(server.requests) == 2


def test_a_request_that_is_refused_is_not_repeated(client, server, images):
    protocol, server, address = server
    server.faults.append("refused")
    with (
        connect(client, protocol, address) as asking,
        pytest.raises(client.RequestError, match=r"(400|INVALID_ARGUMENT) "),
    ):
        asking.classify(images)
    assert len(server.requests) == 1


def test_over_rest_an_attempt_that_hangs_is_given_up_for_another(
    client, servers, images
):
    server, address = servers["rest"]
    server.faults.append("hang")
    with connect(client, "rest", address, timeout=0.5) as asking:
        assert len(asking.classify(images)) == len(images)
    assert len(server.requests) == 2


def test_over_grpc_the_timeout_holds_for_all_attempts(client, servers, images):
    server, address = servers["grpc"]
    server.faults.append("hang")
    begin = time.monotonic()
    with (
        connect(client, "grpc", address, timeout=0.5) as asking,
        pytest.raises(client.RequestError, match="DEADLINE_EXCEEDED"),
    ):
        asking.classify(images)
    assert 0.4 < time.monotonic() - begin < 30


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_nobody_listens(client, protocol, images):
    address = {"rest": "http://127.0.0.1:1", "grpc": "127.0.0.1:1"}[protocol]
    with (
        connect(client, protocol, address, retries=1) as asking,
        pytest.raises(client.RequestError, match="Connection refused"),
    ):
        asking.classify(images)


def test_answers_may_be_larger_than_grpc_takes_by_itself(
    client, servers, images
):
    server, address = servers["grpc"]
    server.faults.append("large")
    with connect(client, "grpc", address) as asking:
        assert len(asking.classify(images)) == len(images)


def test_answers_of_another_model(client, server, images):
    protocol, server, address = server
    server.faults.append("other")
    with (
        connect(client, protocol, address) as asking,
        pytest.raises(
            client.RequestError,
            match=r"expected status, labels, scores .* Received: .*\w",
        ),
    ):
        asking.classify(images)


def test_answers_for_fewer_images(client, server, files):
    protocol, server, address = server
    server.faults.append("short")
    with (
        connect(client, protocol, address) as asking,
        pytest.raises(client.RequestError, match=r"2 answers\. Received: 1"),
    ):
        list(client.classify_files(asking, files, 32))


def test_what_a_proxy_says_is_passed_on(client, servers):
    _, address = servers["rest"]
    with (
        connect(client, "rest", f"{address}/elsewhere") as asking,
        pytest.raises(
            client.RequestError, match=r"404 Not Found: <!DOCTYPE HTML>"
        ),
    ):
        asking.classify([b""])


# Many files.


def test_files_are_read_as_they_are_sent(client, tmp_path, monkeypatch):
    paths = []
    for size in (3, 3, 3, 9, 1, 0):
        paths.append(tmp_path / str(len(paths)))
        paths[-1].write_bytes(b"x" * size)
    monkeypatch.setattr(client, "MAX_REQUEST_BYTES", 6)
    batches = client.read_batches(paths, 2)
    sizes = [[len(content) for _, content in batch] for batch in batches]
    assert sizes == [[3, 3], [3], [9], [1, 0]]


def test_all_requests_go_through_one_connection(client, servers, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(7)]
    for path in paths:
        path.write_bytes(b"")
    server, address = servers["rest"]
    with connect(client, "rest", f"{address}/") as asking:
        answers = list(client.classify_files(asking, paths, 3))
    assert [path for path, _ in answers] == paths
    assert [
        len(request.inputs["image_bytes"].string_val)
        for request in server.requests
    ] == [3, 3, 1]
    assert server.connections == 1


# The program.


def test_the_program_prints_a_line_per_file(servers, files):
    good, page, missing = files
    _, address = servers["rest"]
    result = run_program("--model=digits", f"--server={address}", *files)
    lines = result.stdout.splitlines()
    assert re.fullmatch(rf"{good}\tok\t({'|'.join(CLASSES)})\t0\.\d+", lines[0])
    assert lines[1:] == [
        f"{page}\tunsupported format",
        f"{missing}\tnot read: No such file or directory",
    ]
    assert (result.returncode, result.stderr) == (1, "")


def test_the_program_succeeds_when_all_is_well(client, servers, files, capsys):
    _, address = servers["grpc"]
    arguments = ["--model=digits", "--protocol=grpc", "--top=2"]
    with flagsaver.flagsaver():
        flags.FLAGS(["client.py", *arguments, f"--server={address}"])
        assert client.main(["client.py", files[0]]) == 0
    name, status, *labels = capsys.readouterr().out.strip("\n").split("\t")
    assert (name, status, len(labels)) == (files[0], "ok", 4)
    assert float(labels[1]) > float(labels[3])


def test_the_program_fails_in_a_line(files):
    result = run_program(
        "--model=digits",
        "--retries=0",
        "--server=http://127.0.0.1:1",
        files[0],
    )
    assert result.returncode == 2
    assert not result.stdout
    assert result.stderr.startswith("client.py: not answered: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=digits"], "expected the paths of images"),
        (["photo.jpg"], "Flag --model must have a value"),
        (["--model=digits", "--retries=9", "photo.jpg"], r"\[0, 4\]"),
        (["--model=digits", "--protocol=http", "photo.jpg"], r"<rest\|grpc>"),
        (["--model=d", "--server=host:8501", "x.jpg"], "as http://localhost:8"),
        (
            ["--model=d", "--protocol=grpc", "--server=http://host", "x.jpg"],
            "as localhost:8500 for --protocol=grpc",
        ),
    ],
)
def test_wrong_flags(arguments, message):
    result = run_program(*arguments)
    assert result.returncode == 2
    assert re.search(message, result.stdout + result.stderr)
