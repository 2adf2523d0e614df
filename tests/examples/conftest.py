"""A served model, and the client of examples/serving."""

import contextlib
import importlib.util

import keras
import numpy as np
import pytest

from tests.examples.serving_example import CLASSES
from tests.examples.serving_example import EXAMPLE


@pytest.fixture(scope="session")
def client():
    """The module, as its program would be."""
    spec = importlib.util.spec_from_file_location(
        "serving_client", EXAMPLE / "client.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A model of three classes, exported and held as by a server."""
    from lambda_keras.serving.export import export_version
    from lambda_keras.serving.images import RequestPreprocessing
    from tests.examples.serving_servers import ServedVersion

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="images"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(CLASSES), activation="softmax"),
        ]
    )
    version = export_version(
        model,
        tmp_path_factory.mktemp("models") / "digits",
        preprocessing=RequestPreprocessing((8, 8, 3)),
        class_names=CLASSES,
    )
    return ServedVersion(version)


@pytest.fixture
def servers(served):
    """A server and its address by protocol."""
    from tests.examples.serving_servers import GrpcServer
    from tests.examples.serving_servers import RestServer

    with contextlib.ExitStack() as stack:
        yield {
            protocol: (server, stack.enter_context(server.started()))
            for protocol, server in (
                ("rest", RestServer(served)),
                ("grpc", GrpcServer(served)),
            )
        }


@pytest.fixture(params=["rest", "grpc"])
def server(request, servers):
    """Protocol, server and address."""
    return request.param, *servers[request.param]


@pytest.fixture(scope="session")
def images():
    """Files of the formats that are served, larger than gRPC keeps."""
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (400, 300, 3), "uint8")
    jpeg = tf.io.encode_jpeg(pixels).numpy()
    png = tf.io.encode_png(pixels[:, ::2]).numpy()
    # What follows the end of a file is part of it, zeros too.
    return [jpeg, png, png + b"\0\0"]


@pytest.fixture
def files(tmp_path, images):
    (tmp_path / "good.jpg").write_bytes(images[0])
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    return [str(tmp_path / name) for name in ("good.jpg", "page.jpg", "none")]
