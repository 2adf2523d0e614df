"""Stand-ins for TensorFlow Serving on the loopback: REST and gRPC.

They read requests as its documentation says, and run them as it does: in a
session of TensorFlow's C++ runtime, on the signatures of a SavedModel. What
they answer to a bad request is what that runtime says, where a request gets
that far.
"""

import base64
import collections
import contextlib
import http.server
import json
import re
import threading
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.serving.runtimes import Session

# What TensorFlow Serving makes of TensorFlow's errors over REST.
HTTP_STATUSES = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400}
HTTP_STATUSES |= {"NOT_FOUND": 404, "UNAVAILABLE": 503}

# Faults, of which a server takes one per request, before it answers again: it
# is too busy; does not want the request; does not answer as long as it runs;
UNAVAILABLE, REFUSED, HANG = "unavailable", "refused", "hang"
# answers with more than the 4 MB of gRPC; without the statuses; one row short.
LARGE, OTHER, SHORT = "large", "other", "short"
LARGE_BYTES = 5 << 20


class Refusal(Exception):
    """An error as servers return it: the name of a code, and a message."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class ServedVersion:
    """One version of a model, as a server holds it.

    Args:
        directory: Its directory, in that of the model.
    """

    def __init__(self, directory):
        self.name, self.version = directory.parent.name, int(directory.name)
        self.session = Session(directory)
        self.signatures = self.session.definitions

    def check(self, name, version):
        """Refuses requests for another model or version."""
        if name != self.name or version not in (None, self.version):
            asked = "Latest" if version is None else "Specific"
            which = name if version is None else f"{name}, {version}"
            raise Refusal(
                "NOT_FOUND",
                f"Servable not found for request: {asked}({which})",
            )

    def run(self, request):
        """Runs a `PredictRequest`; returns arrays by names of outputs."""
        spec = request.model_spec
        has_version = spec.HasField("version")
        self.check(spec.name, spec.version.value if has_version else None)
        name = spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise Refusal(
                "FAILED_PRECONDITION",
                f'Serving signature key "{name}" not found.',
            )
        (expected,) = self.signatures[name].inputs
        if set(request.inputs) != {expected}:
            raise Refusal(
                "INVALID_ARGUMENT",
                "input size does not match signature: expected "
                f"{expected}, got {', '.join(request.inputs)}",
            )
        try:
            # Not `tf.make_ndarray`, but what a server decodes with.
            tensor = tf.io.parse_tensor(
                request.inputs[expected].SerializeToString(),
                request.inputs[expected].dtype,
            )
            return self.session.ask(name, np.asarray(tensor.numpy()))
        except tf.errors.OpError as error:
            code = type(error).__name__.removesuffix("Error")
            code = re.sub(r"(?<!^)(?=[A-Z])", "_", code).upper()
            raise Refusal(code, error.message) from None


class _Server:
    """What the two servers share: faults, and what they were asked."""

    def __init__(self, served):
        self.served = served
        self.requests = []
        self.faults = collections.deque()
        self._end = threading.Event()

    def _answer(self, request):
        self.requests.append(request)
        fault = self.faults.popleft() if self.faults else None
        if fault == UNAVAILABLE:
            raise Refusal("UNAVAILABLE", "the batch scheduling queue is full")
        if fault == REFUSED:
            raise Refusal("INVALID_ARGUMENT", "the batch is too large")
        if fault == HANG:
            self._end.wait(60)
            raise Refusal("UNAVAILABLE", "the server has ended")
        outputs = self.served.run(request)
        if fault == LARGE:
            rows = len(outputs["status"])
            outputs["large"] = np.zeros((rows, LARGE_BYTES // rows), np.uint8)
        if fault == OTHER:
            del outputs["status"]
        if fault == SHORT:
            outputs = {name: array[1:] for name, array in outputs.items()}
        return outputs


class GrpcServer(
    _Server, prediction_service_pb2_grpc.PredictionServiceServicer
):
    """A `PredictionService`; `requests` are what was sent."""

    def Predict(self, request, context):
        try:
            outputs = self._answer(request)
        except Refusal as error:
            context.abort(getattr(grpc.StatusCode, error.code), error.message)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.served.name
        response.model_spec.version.value = self.served.version
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    @contextlib.contextmanager
    def started(self):
        """Yields its address."""
        server = grpc.server(
            futures.ThreadPoolExecutor(4),
            # As TensorFlow Serving has it: anything up to 2 GiB.
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            self, server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            self._end.set()
            server.stop(None).wait()


class RestServer(_Server):
    """The REST API; `requests` are as the bodies were read.

    `connections` is the number of connections that were opened.
    """

    def __init__(self, served):
        super().__init__(served)
        self.connections = 0

    @contextlib.contextmanager
    def started(self):
        """Yields its address, from `http://`."""
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                owner.connections += 1
                super().setup()

            def do_GET(self):
                self._reply(owner._status, self.path)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._reply(owner._predict, self.path, body)

            def _reply(self, function, *arguments):
                if not self.path.startswith("/v1/"):
                    # In HTML, as proxies do.
                    self.send_error(404)
                    return
                try:
                    status, answer = 200, function(*arguments)
                except Refusal as error:
                    status = HTTP_STATUSES[error.code]
                    answer = {"error": error.message}
                content = json.dumps(answer).encode()
                # The client may have given up waiting.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    if status == HTTP_STATUSES["UNAVAILABLE"]:
                        self.send_header("Retry-After", "60")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self._end.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def _spec(self, path, ending):
        pattern = r"/v1/models/([^/:]+)(?:/versions/(\d+))?" + ending
        found = re.fullmatch(pattern, path)
        if not found:
            raise Refusal("INVALID_ARGUMENT", f"Malformed request: {path}")
        name, version = found.groups()
        return name, None if version is None else int(version)

    def _status(self, path):
        name, version = self._spec(path, "")
        self.served.check(name, version)
        state = get_model_status_pb2.ModelVersionStatus.State.Name(
            get_model_status_pb2.ModelVersionStatus.AVAILABLE
        )
        return {
            "model_version_status": [
                {
                    "version": str(self.served.version),
                    "state": state,
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }

    def _predict(self, path, body):
        request = predict_pb2.PredictRequest()
        name, version = self._spec(path, ":predict")
        self.served.check(name, version)
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        self._read(body, request)
        outputs = self._answer(request)
        return {
            "predictions": [
                {key: _to_json(array[row]) for key, array in outputs.items()}
                for row in range(len(outputs["probabilities"]))
            ]
        }

    def _read(self, body, request):
        """Fills a request with a body in the row format."""
        try:
            body = json.loads(body)
        except ValueError as error:
            message = f"JSON Parse error: {error}"
            raise Refusal("INVALID_ARGUMENT", message) from None
        name = body.get("signature_name", "serving_default")
        request.model_spec.signature_name = name
        if name not in self.served.signatures:
            raise Refusal(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{name}" not found in signature def',
            )
        rows = body.get("instances")
        if not rows:
            raise Refusal("INVALID_ARGUMENT", "No values in 'instances' array")
        ((expected, info),) = self.served.signatures[name].inputs.items()
        # Of a signature with one input, rows may go without its name.
        if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
            rows = [{expected: row} for row in rows]
        if any(set(row) != {expected} for row in rows):
            raise Refusal(
                "INVALID_ARGUMENT",
                "Failed to process element of 'instances' list: keys must be "
                f"equal to: {expected}",
            )
        values = [row[expected] for row in rows]
        request.inputs[expected].CopyFrom(_to_tensor(values, info.dtype))


def _to_tensor(values, dtype):
    dtype = tf.dtypes.as_dtype(dtype)
    try:
        if dtype == tf.string:
            values = [
                base64.b64decode(value["b64"], validate=True)
                if isinstance(value, dict)
                else value.encode()
                for value in values
            ]
            return tf.make_tensor_proto(values, tf.string)
        array = np.array(values)
        if array.dtype.kind not in ("iu" if dtype.is_integer else "iuf"):
            raise TypeError
        return tf.make_tensor_proto(array.astype(dtype.as_numpy_dtype))
    # Ragged lists, or strings where numbers should be.
    except (ValueError, TypeError, AttributeError):
        raise Refusal(
            "INVALID_ARGUMENT",
            "Failed to process element of 'instances' list: "
            f"is not of expected type: {dtype.name}",
        ) from None


def _to_json(array):
    if isinstance(array, bytes):
        return array.decode()
    if isinstance(array, np.ndarray) and array.dtype == object:
        return [_to_json(item) for item in array]
    return array.tolist()
