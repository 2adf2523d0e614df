"""Images that cannot be read: counted, named, and at some point too many."""

import logging
import threading

import numpy as np
import tensorflow as tf

SHOWN = 5

logger = logging.getLogger(__name__)


class BadImagesError(OSError):
    """More images than allowed could not be read."""


class BadImages:
    """Counts what could not be read in a split; a name counts once.

    Each name is logged as a warning when it is first met. Once there are more
    than allowed, the pipeline stops with an error of TensorFlow's that ends in
    the message of the one in `error`.

    Args:
        count: The number of images in the split.
        max_share: The part of them that may be unreadable.
        is_remote: Whether the pipeline runs on other machines than this
            program, as on a TPU pod. They cannot call Python: then names are
            printed there, nothing is counted and nothing stops.
    """

    def __init__(
        self, count: int, max_share: float = 0.001, is_remote: bool = False
    ):
        if not 0 <= max_share <= 1:
            raise ValueError(
                "`max_share` must be from 0 to 1. "
                f"Received: max_share={max_share}"
            )
        self.count = count
        self.max_share = max_share
        self.is_remote = is_remote
        self.names: dict[str, None] = {}
        self.error: BadImagesError | None = None
        # tf.data calls from several threads.
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def check(self) -> None:
        """Raises the error, if there is one."""
        if self.error is not None:
            raise self.error

    def add(self, name: str) -> None:
        """Takes note of an image.

        Args:
            name: What it is called.

        Raises:
            BadImagesError: If there are now more than allowed.
        """
        with self._lock:
            if name not in self.names:
                self.names[name] = None
                logger.warning(
                    "Skipping what is no image with a class: %s", name
                )
            # Other threads may be about to add some: the first error stays.
            if self.error is None and (
                len(self.names) > self.max_share * self.count
            ):
                some = list(self.names)[:SHOWN]
                self.error = BadImagesError(
                    f"{len(self.names)} of {self.count:,} images could not be "
                    "read or have no label of the classes, where a share of "
                    f"{self.max_share:g} is allowed (max_bad_images): "
                    f"{', '.join(some)}"
                    f"{', ...' if len(self.names) > SHOWN else ''}"
                )
            self.check()

    def report(self, names: tf.Tensor) -> tf.Tensor:
        """Calls `add` when the result is computed inside a pipeline.

        Args:
            names: String tensor `(count,)`.

        Returns:
            A float32 zero, the weight of such images.
        """
        if self.is_remote:
            printed = tf.print("Unreadable:", names, summarize=-1)
            with tf.control_dependencies([printed]):
                return tf.constant(0.0)

        def add_all(names):
            for name in names:
                self.add(name.decode(errors="replace"))
            return np.float32(0)

        zero = tf.numpy_function(add_all, [names], tf.float32)
        return tf.ensure_shape(zero, ())
