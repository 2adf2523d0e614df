"""python examples/serving/client.py --model=digits photo.jpg scan.png

Asks a served model what is in image files, and prints a line for each: name,
status, label, score. The exit status is 0 if all images are ok, 1 if any is
not (the lines say which), and 2 if the server did not answer or was not asked.
"""

import base64
import contextlib
import json
import logging
import os
import sys
import urllib.parse
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import requests
import urllib3
from absl import app
from absl import flags

REST, GRPC = "rest", "grpc"
SERVERS = {REST: "http://localhost:8501", GRPC: "localhost:8500"}
SIGNATURE = "serving_bytes"
NOT_ANSWERED = 2
OUTPUTS = ("status", "labels", "scores")

# Files of one request: the images of a phone are 3 to 5 MB each.
MAX_REQUEST_BYTES = 64 << 20
# gRPC takes no more than five attempts.
MAX_RETRIES = 4
BACKOFF_SECONDS = 0.2

_MODEL = flags.DEFINE_string("model", None, "The name of the model.")
_VERSION = flags.DEFINE_integer(
    "version", None, "Its version. By default the newest.", lower_bound=1
)
_PROTOCOL = flags.DEFINE_enum("protocol", REST, [REST, GRPC], "How to ask.")
_SERVER = flags.DEFINE_string(
    "server",
    None,
    f"Its address, over REST as {SERVERS[REST]} and over gRPC as "
    f"{SERVERS[GRPC]}, the defaults.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Images per request, at most.", lower_bound=1
)
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    30.0,
    "Seconds to wait: over REST for each attempt, over gRPC for all of them.",
    lower_bound=0.001,
)
_RETRIES = flags.DEFINE_integer(
    "retries",
    MAX_RETRIES,
    "How often to ask again while the server is unavailable.",
    lower_bound=0,
    upper_bound=MAX_RETRIES,
)
_TOP = flags.DEFINE_integer(
    "top",
    1,
    "How many labels to print, with their scores; at most as many as the "
    "export names.",
    lower_bound=1,
)

# Status, labels and scores of one image.
Answer = tuple[str, list[str], list[float]]


class RequestError(RuntimeError):
    """The server refused a request or did not answer it."""


class RestClient:
    """Asks over REST, with images in base64.

    One connection is used for all requests, as long as the server keeps it.

    Args:
        server: Its address, from `http://`.
        model: The name of the model.
        version: Its version; None is the newest.
        timeout: Seconds to wait for each attempt.
        retries: How often to ask again.
    """

    def __init__(
        self,
        server: str,
        model: str,
        version: int | None = None,
        timeout: float = 30.0,
        retries: int = MAX_RETRIES,
    ):
        name = urllib.parse.quote(model, safe="")
        which = "" if version is None else f"/versions/{version}"
        server = server.rstrip("/")
        self._url = f"{server}/v1/models/{name}{which}:predict"
        self._timeout = timeout
        again = urllib3.Retry(
            retries,
            # Asking twice changes nothing, so that POST may be repeated too.
            allowed_methods={"POST"},
            # Of a server that is full, or a proxy without one. Never 400: what
            # is wrong with a request stays wrong.
            status_forcelist={429, 502, 503, 504},
            raise_on_status=False,
            # A proxy may name an hour.
            respect_retry_after_header=False,
            backoff_factor=BACKOFF_SECONDS,
            # Clients that failed together should not come back together.
            backoff_jitter=BACKOFF_SECONDS,
        )
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            adapter = requests.adapters.HTTPAdapter(max_retries=again)
            self._session.mount(scheme, adapter)

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Sends one request.

        Args:
            images: JPEG or PNG files; at least one.

        Returns:
            Status, labels and scores of each.

        Raises:
            RequestError: If there is no answer.
        """
        body: dict[str, Any] = {
            "signature_name": SIGNATURE,
            "instances": [
                {"image_bytes": {"b64": base64.b64encode(image).decode()}}
                for image in images
            ],
        }
        try:
            response = self._session.post(
                self._url, json=body, timeout=self._timeout
            )
            if not response.ok:
                raise RequestError(
                    f"{response.status_code} {_reason(response)}"
                )
            rows = response.json()["predictions"]
            return [tuple(row[name] for name in OUTPUTS) for row in rows]
        except requests.RequestException as error:
            # What urllib3 gave up for, without the history of it.
            cause = getattr(error.args[0], "reason", error)
            raise RequestError(f"{self._url}: {cause}") from error
        except (KeyError, TypeError) as error:
            raise _unknown_answer(response.text[:200]) from error

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()


class GrpcClient:
    """Asks over gRPC, with TensorFlow Serving's own messages.

    Args: as those of `RestClient`, but that `server` is host:port, and
        `timeout` holds for all attempts of a request together.
    """

    def __init__(
        self,
        server: str,
        model: str,
        version: int | None = None,
        timeout: float = 30.0,
        retries: int = MAX_RETRIES,
    ):
        # The messages bring TensorFlow, which takes seconds to import.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import grpc
        from tensorflow_serving.apis import predict_pb2
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._failure = grpc.RpcError
        self._new_request = predict_pb2.PredictRequest
        self._model = model
        self._version = version
        self._timeout = timeout
        self._channel = grpc.insecure_channel(server, _grpc_options(retries))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Sends one request; Args, Returns, Raises: as `RestClient`'s."""
        import tensorflow as tf

        # No `output_filter`, though probabilities are not printed: a server
        # that batches does so only with requests for all outputs.
        request = self._new_request()
        request.model_spec.name = self._model
        request.model_spec.signature_name = SIGNATURE
        if self._version is not None:
            request.model_spec.version.value = self._version
        request.inputs["image_bytes"].CopyFrom(
            tf.make_tensor_proto(list(images), tf.string)
        )
        try:
            response = self._stub.Predict(request, timeout=self._timeout)
        except self._failure as error:
            raise RequestError(
                f"{error.code().name} {error.details()}"
            ) from error
        if not set(OUTPUTS) <= set(response.outputs):
            raise _unknown_answer(", ".join(response.outputs))
        statuses, labels, scores = (
            tf.make_ndarray(response.outputs[name]) for name in OUTPUTS
        )
        return [
            (status.decode(), [name.decode() for name in names], best.tolist())
            for status, names, best in zip(statuses, labels, scores)
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def _grpc_options(retries: int) -> list[tuple[str, Any]]:
    service = {
        "name": [{"service": "tensorflow.serving.PredictionService"}],
        "retryPolicy": {
            "maxAttempts": retries + 1,
            "initialBackoff": f"{BACKOFF_SECONDS}s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }
    return [
        ("grpc.enable_retries", int(retries > 0)),
        (
            "grpc.service_config",
            json.dumps({"methodConfig": [service] if retries else []}),
        ),
        # gRPC repeats only what it has kept, by default 256 KiB: no photograph
        # of a camera would be sent again.
        ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
        # By default 4 MB, which is less than the probabilities of large
        # batches with many classes.
        ("grpc.max_receive_message_length", -1),
    ]


def _unknown_answer(received: str) -> RequestError:
    return RequestError(
        f"expected {', '.join(OUTPUTS)} of each image. Received: {received}"
    )


def _reason(response: requests.Response) -> str:
    """What the server says is wrong; a proxy may say it in HTML."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.reason}: {response.text[:200]}"


def read_batches(
    paths: Sequence[str], batch_size: int
) -> Iterator[list[tuple[str, bytes | OSError]]]:
    """Reads files, no more at once than one request takes.

    Args:
        paths: The files.
        batch_size: The most files of a batch.

    Yields:
        Path and contents of some files, or what stood against reading one.
    """
    batch: list[tuple[str, bytes | OSError]] = []
    total = 0
    for path in paths:
        content: bytes | OSError
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            content = error
        size = 0 if isinstance(content, OSError) else len(content)
        if batch and (
            len(batch) == batch_size or total + size > MAX_REQUEST_BYTES
        ):
            yield batch
            batch, total = [], 0
        batch.append((path, content))
        total += size
    if batch:
        yield batch


def classify_files(
    client: RestClient | GrpcClient, paths: Sequence[str], batch_size: int
) -> Iterator[tuple[str, Answer]]:
    """Classifies image files, in order.

    Args:
        client: Whom to ask.
        paths: The files. One that cannot be read has that as its status.
        batch_size: Images per request, at most.

    Yields:
        Path and answer of each.

    Raises:
        RequestError: If a request is not answered.
    """
    for batch in read_batches(paths, batch_size):
        images = [item for _, item in batch if isinstance(item, bytes)]
        answers = client.classify(images) if images else []
        if len(answers) != len(images):
            raise RequestError(
                f"expected {len(images)} answers. Received: {len(answers)}"
            )
        left = iter(answers)
        for path, item in batch:
            if isinstance(item, bytes):
                yield path, next(left)
            else:
                yield path, (f"not read: {item.strerror}", [], [])


def main(arguments):
    paths = arguments[1:]
    if not paths:
        raise app.UsageError("expected the paths of images.", NOT_ANSWERED)
    if _SERVER.value and ("://" in _SERVER.value) != (_PROTOCOL.value == REST):
        raise app.UsageError(
            f"expected --server as {SERVERS[_PROTOCOL.value]} for "
            f"--protocol={_PROTOCOL.value}. Received: --server={_SERVER.value}",
            NOT_ANSWERED,
        )
    # It would tell of each attempt, at length.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    kind = {REST: RestClient, GRPC: GrpcClient}[_PROTOCOL.value]
    client = kind(
        _SERVER.value or SERVERS[_PROTOCOL.value],
        _MODEL.value,
        _VERSION.value,
        _TIMEOUT.value,
        _RETRIES.value,
    )
    all_ok = True
    with contextlib.closing(client):
        try:
            for path, (status, labels, scores) in classify_files(
                client, paths, _BATCH_SIZE.value
            ):
                is_ok = status == "ok"
                best = zip(labels[: _TOP.value], scores) if is_ok else []
                fields = [f"{name}\t{score:.4f}" for name, score in best]
                print("\t".join([path, status, *fields]), flush=True)
                all_ok &= is_ok
        except RequestError as error:
            print(f"client.py: not answered: {error}", file=sys.stderr)
            return NOT_ANSWERED
    return 0 if all_ok else 1


def parse_flags(arguments):
    """As absl does it, but for the exit status."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        print(f"client.py: {error}", file=sys.stderr)
        raise SystemExit(NOT_ANSWERED) from None


if __name__ == "__main__":
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=parse_flags)
