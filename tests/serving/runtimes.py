"""What runs a SavedModel without this package: TensorFlow, in two ways."""

import os

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2


class Signatures:
    """As a program in Python does.

    Args:
        directory: The SavedModel.
    """

    def __init__(self, directory):
        # The signatures do not keep what they are of.
        self._loaded = tf.saved_model.load(os.fspath(directory))
        self.inputs = {
            name: list(function.structured_input_signature[1])
            for name, function in self._loaded.signatures.items()
        }

    def ask(self, signature, array):
        """Returns the arrays that a signature answers, by name."""
        (name,) = self.inputs[signature]
        function = self._loaded.signatures[signature]
        answers = function(**{name: tf.constant(array)})
        return {name: answer.numpy() for name, answer in answers.items()}


class Session:
    """As TensorFlow Serving does: a session, told the names of tensors.

    Args:
        directory: The SavedModel.
    """

    def __init__(self, directory):
        with tf.Graph().as_default():
            self._session = tf.compat.v1.Session()
            graph = tf.compat.v1.saved_model.loader.load(
                self._session, ["serve"], os.fspath(directory)
            )
        self.definitions = {
            name: definition
            for name, definition in graph.signature_def.items()
            # One without inputs initializes tables.
            if definition.inputs
        }
        self.inputs = {
            name: list(definition.inputs)
            for name, definition in self.definitions.items()
        }
        self._calls = {
            name: self._make_call(definition)
            for name, definition in self.definitions.items()
        }

    def ask(self, signature, array):
        """Returns the arrays that a signature answers, by name."""
        return self._calls[signature](array)

    def _make_call(self, definition):
        # Not `Session.run`, which compares shapes in Python: servers do not.
        call = self._session._make_callable_from_options(
            config_pb2.CallableOptions(
                feed=[info.name for info in definition.inputs.values()],
                fetch=[info.name for info in definition.outputs.values()],
            )
        )
        return lambda array: dict(zip(definition.outputs, call(array)))


RUNTIMES = {"signatures": Signatures, "session": Session}


def as_batch(files):
    """Returns files as an array, which keeps zeros at their ends."""
    return np.array([*files, None], object)[:-1]
