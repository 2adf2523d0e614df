"""Checkpoints on the Hugging Face hub, checked before they are used."""

import contextlib
import dataclasses
import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lambda_keras.messages import first_line
from lambda_keras.models import ModelSpec
from lambda_keras.models import get_spec
from lambda_keras.weights.timm import recognize

# The hub names large files by their SHA-256, others by that of git.
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What users may change of a spec and still mean its checkpoint.
_FREE_FIELDS = (
    "momentum",
    "drop_path_rate",
    "dropout_rate",
    "image_size",
    "crop",
    "interpolation",
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Published ImageNet weights of a model, and what is said of them.

    The accuracies are those of timm's own table
    (`results/results-imagenet.csv`) at `image_size`, in percent of the
    50,000 validation images; they were not measured with this package.

    Attributes:
        spec: The model.
        repo_id: The repository on the hub.
        top_1: The published top-1 accuracy.
        top_5: The published top-5 accuracy.
        image_size: The height and width of the images that it is for.
        source: Where the weights were first published.
        licence: Their licence, as the card on the hub states it.
        file_name: The file in the repository.
        revision: The branch, tag or commit.
        sha256: The SHA-256 of the file, in hexadecimal digits. `None` where
            we have not had the file: then it is only checked against what
            the hub says that it is.
    """

    spec: ModelSpec
    repo_id: str
    top_1: float
    top_5: float
    image_size: int
    source: str
    licence: str = "Apache-2.0"
    file_name: str = "model.safetensors"
    revision: str = "main"
    sha256: str | None = None


_RELEASE = (
    "https://github.com/huggingface/pytorch-image-models/releases/tag/"
    "v0.1-attn-weights"
)

CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.spec.name: checkpoint
    for checkpoint in (
        Checkpoint(
            spec=get_spec("lambda_resnet_26t"),
            repo_id="timm/lambda_resnet26t.c1_in1k",
            top_1=79.126,
            top_5=94.554,
            image_size=256,
            source=_RELEASE,
        ),
        Checkpoint(
            spec=get_spec("lambda_resnet_26rpt"),
            repo_id="timm/lambda_resnet26rpt_256.c1_in1k",
            top_1=78.960,
            top_5=94.420,
            image_size=256,
            source=_RELEASE,
        ),
        Checkpoint(
            spec=get_spec("lambda_resnet_50ts"),
            repo_id="timm/lambda_resnet50ts.a1h_in1k",
            top_1=81.184,
            top_5=95.094,
            image_size=256,
            source=_RELEASE,
        ),
    )
}


def find_checkpoint(spec: ModelSpec) -> Checkpoint:
    """Finds the checkpoint of a model.

    Args:
        spec: The spec. Rates of regularization, the momentum of batch
            normalization and the image size may be others than in the named
            spec.

    Returns:
        Its `Checkpoint`.

    Raises:
        ValueError: If there is none.

    Example:

    >>> find_checkpoint(get_spec("lambda_resnet_26t")).repo_id
    'timm/lambda_resnet26t.c1_in1k'
    """
    checkpoint = CHECKPOINTS.get(spec.name)
    if checkpoint is None:
        raise ValueError(
            "There are weights on the hub of these models: "
            f"{', '.join(CHECKPOINTS)}. "
            f"Received: weights='imagenet' for {spec.name}"
        )
    others = [
        f"{field.name}={getattr(spec, field.name)}"
        for field in dataclasses.fields(spec)
        if field.name not in _FREE_FIELDS
        and getattr(spec, field.name) != getattr(checkpoint.spec, field.name)
    ]
    if others:
        raise ValueError(
            f"The weights on the hub are of {spec.name} as it is. "
            f"Received: weights='imagenet' for one with {', '.join(others)}"
        )
    return checkpoint


def download(
    checkpoint: Checkpoint,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
) -> Path:
    """Downloads a checkpoint, or takes it from the hub's cache.

    The download, its cache and its settings (`HF_HOME`, `HF_ENDPOINT`,
    `HF_HUB_OFFLINE`, ...) are those of `huggingface_hub`. An interrupted
    transfer goes on where it ended, a few times; a later call starts again.
    Each time, the file has to be what the hub says that it is (its SHA-256)
    and to have every key and shape of the model. One that has not is deleted
    from the cache; what a link there leads to elsewhere stays.

    Where the cache does not keep what the hub says (without symbolic links,
    or with a link of one's own), the hub is asked; offline, the file goes by
    what was checked before.

    Args:
        checkpoint: The checkpoint.
        cache_dir: The directory of the cache. Defaults to the library's.
        endpoint: The address of the hub. Defaults to the library's.

    Returns:
        The path of the file in the cache. It may be a symbolic link.

    Raises:
        ImportError: If `huggingface_hub` or `safetensors` is not installed.
        OSError: If the file cannot be had, from the hub or the cache.
        ValueError: If it is not what it has to be.

    Example:

    ```python
    path = download(CHECKPOINTS["lambda_resnet_26t"])
    model = LambdaResNet26T(weights=path)
    ```
    """
    hub = _import_hub()
    try:
        with _without_warnings(hub):
            path = Path(
                hub.hf_hub_download(
                    checkpoint.repo_id,
                    checkpoint.file_name,
                    revision=checkpoint.revision,
                    cache_dir=cache_dir,
                    endpoint=endpoint,
                )
            )
    # Each version of the library has the errors of another HTTP client.
    except Exception as error:
        raise OSError(
            f"{checkpoint.file_name} of {checkpoint.repo_id} is not in the "
            f"cache and could not be downloaded ({_reason(error)}). A file "
            "can be given as `weights=PATH`. "
            f"Received: repo_id={checkpoint.repo_id!r}"
        ) from error
    try:
        _check_sha256(hub, checkpoint, path, endpoint)
        _check_model(checkpoint, path)
    except ValueError as error:
        outcome = "was deleted from the cache"
        try:
            _delete(checkpoint, path, isinstance(error, _DamagedError))
        except OSError as failure:
            reason = first_line(failure)
            outcome = f"could not be deleted from the cache ({reason})"
        raise ValueError(
            f"{checkpoint.file_name} of {checkpoint.repo_id} is not what it "
            f"has to be and {outcome}. {error}"
        ) from error
    return path


def _import_hub() -> Any:
    try:
        # What is downloaded cannot be checked without it.
        importlib.import_module("safetensors")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            f"Weights on the hub need the library `{error.name}`: "
            '`pip install "lambda_keras[weights]"`.'
        ) from error


@contextlib.contextmanager
def _without_warnings(hub: Any) -> Iterator[None]:
    """Leaves what goes wrong to the one error in which it ends."""
    logging = hub.logging
    level = logging.get_verbosity()
    logging.set_verbosity(max(level, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _reason(error: Exception) -> str:
    """Says in one line what is behind an error of the library's."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error) or type(error).__name__


class _DamagedError(ValueError):
    """A file has not the bytes that it is known by."""


def _check_sha256(
    hub: Any, checkpoint: Checkpoint, path: Path, endpoint: str | None
) -> None:
    stated = checkpoint.sha256 or _stated_hash(hub, checkpoint, path, endpoint)
    if stated is None:
        return
    if not _SHA256.fullmatch(stated):
        raise ValueError(
            "The hub must state the SHA-256 of the file, as it does of large "
            f"ones. Received: etag={stated!r}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != stated:
        raise _DamagedError(
            f"Its SHA-256 must be {stated}. Received: sha256={digest}"
        )


def _stated_hash(
    hub: Any, checkpoint: Checkpoint, path: Path, endpoint: str | None
) -> str | None:
    """Returns what the hub says of a file in the cache, where it is known."""
    if path.is_symlink():
        # Not followed to the end: the library's links may lead to others.
        blob = path.parent / os.readlink(path)
        blobs = _repository(checkpoint, path) / "blobs"
        if blob.parent.resolve() == blobs.resolve():
            return blob.name
    url = hub.hf_hub_url(
        checkpoint.repo_id,
        checkpoint.file_name,
        revision=path.parent.name,
        endpoint=endpoint,
    )
    try:
        return hub.get_hf_file_metadata(url).etag
    # Offline, in the words of one HTTP client or another.
    except Exception:
        return None


def _check_model(checkpoint: Checkpoint, path: Path) -> None:
    found, wanted = recognize(path), checkpoint.spec
    if (found.name, found.width) != (wanted.name, wanted.width):
        raise ValueError(
            f"It must hold {wanted.name} with width={wanted.width}. "
            f"Received: {found.name} with width={found.width}"
        )


def _repository(checkpoint: Checkpoint, path: Path) -> Path:
    """Returns the directory of the cache that has `snapshots/*/file_name`."""
    return path.parents[checkpoint.file_name.count("/") + 2]


def _delete(checkpoint: Checkpoint, path: Path, is_damaged: bool) -> None:
    """Deletes a file under all names that it has in its repository's cache.

    Links are deleted, and not followed: what is elsewhere is not the cache's.
    """
    repository, target = _repository(checkpoint, path), path.resolve()
    names = [
        name
        for pattern in ("blobs/*", f"snapshots/*/{checkpoint.file_name}")
        for name in repository.glob(pattern)
        if name.resolve() == target
        and name.parent.resolve().is_relative_to(repository.resolve())
    ]
    if path not in names:
        raise OSError("its directory is a link to another place")
    # Repositories share this store. Only bytes that are wrong are so for all.
    store = (repository.parent / "blobs").resolve()
    if is_damaged and target.parent.parent == store:
        names.insert(0, target)
    for name in names:
        name.unlink(missing_ok=True)
