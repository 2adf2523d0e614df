"""Checkpoints from a server on this machine that stands for the hub."""

import dataclasses
import hashlib
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from lambda_keras.models import get_spec
from lambda_keras.weights import CHECKPOINTS
from lambda_keras.weights import download
from lambda_keras.weights.timm import recognize
from tests.weights.hub_server import Faults
from tests.weights.hub_server import Repository
from tests.weights.hub_server import running_hub
from tests.weights.small_models import write_ones

# Files alike on every engine.
pytestmark = pytest.mark.tf_data
SPEC = dataclasses.replace(get_spec("lambda_resnet_26t"), width=8)
NARROW = dataclasses.replace(CHECKPOINTS[SPEC.name], spec=SPEC)
CHUNK = 1000
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A file as the hub has them, but narrow."""
    return write_file(tmp_path_factory.mktemp("timm"), SPEC)


def write_file(directory, spec):
    return write_ones(directory / "model.safetensors", spec).read_bytes()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Settings of the one who runs the tests do not matter."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    # For child processes; here it is read already.
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_SYMLINKS"):
        monkeypatch.setattr(constants, name, False)
    # The session that there is has read them too.
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture(autouse=True)
def quick_library(monkeypatch):
    """The library waits between tries."""
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(seconds / 1000))
    # A transfer goes on after the last whole one of these.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)


@pytest.fixture
def hub(content):
    with running_hub() as server:
        server.repositories[NARROW.repo_id] = Repository(content)
        yield server


@pytest.fixture
def fetch(hub, tmp_path):
    """Downloads from the hub to a cache of this test."""

    def fetch(checkpoint=NARROW, endpoint=hub.url):
        return download(
            checkpoint, cache_dir=tmp_path / "cache", endpoint=endpoint
        )

    return fetch


@pytest.fixture
def files(tmp_path):
    """Lists what the cache has of files, whole or not."""

    def files():
        cache = tmp_path / "cache"
        return [
            *cache.glob("*/blobs/*"),
            *cache.glob("*/snapshots/*/model.safetensors"),
        ]

    return files


def test_a_checkpoint_is_downloaded_once(fetch, hub, content):
    path = fetch()
    assert path.name == "model.safetensors"
    assert path.read_bytes() == content
    assert fetch() == path
    assert hub.ranges == [0]
    assert recognize(path) == SPEC


def test_it_is_taken_from_the_cache_without_a_network(fetch, monkeypatch):
    path = fetch()
    assert fetch(endpoint=CLOSED) == path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch() == path


def test_a_new_version_is_downloaded_beside_the_old(fetch, hub, tmp_path):
    old = fetch()
    content = write_file(tmp_path, SPEC)[:-4] + b"\0\0\0\0"
    hub.repositories[NARROW.repo_id] = Repository(content, commit="e" * 40)
    new = fetch()
    assert new.read_bytes() == content
    assert old.exists()


def test_the_progress_of_a_download_is_shown(fetch, monkeypatch, capsys):
    module = importlib.import_module("huggingface_hub.utils.tqdm")
    monkeypatch.setattr(module, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    # As on a terminal.
    monkeypatch.setenv("TQDM_POSITION", "-1")
    fetch()
    assert "100%" in capsys.readouterr().err


def test_an_interrupted_transfer_goes_on_where_it_ended(fetch, hub, content):
    hub.faults = Faults(cut_after=300 * CHUNK + 1, times=1)
    assert fetch().read_bytes() == content
    assert hub.ranges == [0, 300 * CHUNK]


def test_a_transfer_that_stalls_goes_on(fetch, hub, content, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.faults = Faults(stall_after=2 * CHUNK, times=1)
    assert fetch().read_bytes() == content
    assert hub.ranges == [0, 2 * CHUNK]


def test_a_transfer_that_never_ends_leaves_nothing(fetch, hub, files, content):
    hub.faults = Faults(cut_after=CHUNK)
    with pytest.raises(
        OSError, match=r"could not be downloaded .*26t\.c1_in1k"
    ):
        fetch()
    assert len(hub.ranges) > 2
    assert files() == []
    # A later call starts again.
    hub.faults = Faults()
    hub.ranges.clear()
    assert fetch().read_bytes() == content
    assert hub.ranges == [0]


@pytest.mark.parametrize(
    "faults, reason",
    [
        (Faults(resolve_status=404), "404"),
        (Faults(resolve_status=401), "401"),
        (Faults(resolve_status=500), "500"),
        (Faults(resolve_status=503), "503"),
        (Faults(file_status=404), "404"),
        (Faults(file_status=500), "500"),
        (Faults(cut_after=CHUNK, is_reset=True), "reset by peer"),
        (Faults(sent=b"short"), "should be of size"),
        (Faults(sent=b""), "should be of size"),
    ],
    ids=str,
)
def test_what_the_hub_does_not_give_is_one_error(
    fetch, hub, files, faults, reason
):
    hub.faults = faults
    with pytest.raises(OSError, match=reason) as error:
        fetch()
    assert "\n" not in str(error.value)
    assert "Received: repo_id='timm/lambda_resnet26t.c1_in1k'" in str(error)
    assert files() == []


def test_an_unknown_repository_is_an_error(fetch):
    unknown = dataclasses.replace(NARROW, repo_id="timm/nothing")
    with pytest.raises(OSError, match=r"404.*repo_id='timm/nothing'"):
        fetch(unknown)


def test_no_network_and_no_cache_is_an_error(fetch, monkeypatch, caplog):
    verbosity = huggingface_hub.logging.get_verbosity()
    with pytest.raises(OSError, match=r"not in the cache and .* refused"):
        fetch(endpoint=CLOSED)
    # The one error, and nothing of each try.
    assert not [x for x in caplog.records if "hub" in x.name]
    assert huggingface_hub.logging.get_verbosity() == verbosity
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"offline mode is enabled"):
        fetch()


def test_a_server_that_is_cut_off_is_no_reason_against_the_cache(fetch, hub):
    path = fetch()
    hub.faults = Faults(resolve_status=500)
    assert fetch() == path


def wrong_bytes(content):
    return content[:-4] + b"\xff\0\0\0"


def test_wrong_bytes_of_the_right_length_are_deleted(
    fetch, hub, files, content
):
    hub.faults = Faults(sent=wrong_bytes(content))
    stated = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=rf"was deleted .*must be {stated}"):
        fetch()
    assert files() == []
    hub.faults = Faults()
    assert fetch().read_bytes() == content


def test_a_file_that_is_damaged_in_the_cache_is_deleted_too(
    fetch, files, content
):
    path = fetch()
    path.resolve().write_bytes(wrong_bytes(content))
    with pytest.raises(ValueError, match="SHA-256 must be"):
        fetch(endpoint=CLOSED)
    assert files() == []
    assert fetch().read_bytes() == content


def test_a_damaged_file_is_deleted_with_all_revisions_that_have_it(
    fetch, hub, files, content, tmp_path
):
    other = write_file(tmp_path, SPEC)[:-4] + b"\0\0\0\0"
    hub.repositories[NARROW.repo_id] = Repository(other, commit="d" * 40)
    good = fetch()
    hub.repositories[NARROW.repo_id] = Repository(content)
    old = fetch()
    hub.repositories[NARROW.repo_id] = Repository(content, commit="e" * 40)
    old.resolve().write_bytes(wrong_bytes(content))
    with pytest.raises(ValueError, match="SHA-256 must be"):
        fetch()
    assert not os.path.lexists(old)
    # The other revision stays.
    assert good.read_bytes() == other
    assert set(files()) == {good, good.resolve()}
    cache = huggingface_hub.scan_cache_dir(tmp_path / "cache")
    assert not cache.warnings
    assert fetch().read_bytes() == content


def test_a_file_of_another_model_is_deleted(fetch, hub, files, tmp_path):
    wide = write_file(tmp_path, dataclasses.replace(SPEC, width=12))
    hub.repositories[NARROW.repo_id] = Repository(wide)
    with pytest.raises(ValueError, match=r"with width=8\. .* with width=12"):
        fetch()
    assert files() == []


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda content: content.replace(b"head.fc.bias", b"head.fc.bia2"), ""),
        (lambda content: content[:-4], "could not read it"),
        (lambda content: b"\xff" * 64 + content, "could not read it"),
        (lambda content: b"weights", "could not read it"),
    ],
    ids=["name", "truncated", "hostile header", "noise"],
)
def test_a_file_with_wrong_keys_is_deleted(
    fetch, hub, files, content, spoil, message
):
    # Published like this: its hash is right.
    hub.repositories[NARROW.repo_id] = Repository(spoil(content))
    with pytest.raises(ValueError, match=rf"was deleted .*{message}"):
        fetch()
    assert files() == []


def test_a_pinned_hash_counts_more_than_what_the_hub_says(
    fetch, hub, files, content
):
    digest = hashlib.sha256(content).hexdigest()
    pinned = dataclasses.replace(NARROW, sha256=digest)
    path = fetch(pinned)
    with pytest.raises(ValueError, match=f"must be {'0' * 64}"):
        fetch(dataclasses.replace(NARROW, sha256="0" * 64))
    assert files() == []
    assert fetch(pinned) == path


def test_a_hub_that_does_not_state_the_hash_is_refused(fetch, hub, files):
    hub.repositories[NARROW.repo_id].stated_sha256 = "a" * 40
    with pytest.raises(ValueError, match=r"must state the SHA-256.*'a{40}'"):
        fetch()
    assert files() == []


def test_a_cache_may_keep_the_file_itself_elsewhere(fetch, tmp_path):
    path = fetch()
    blob = path.resolve()
    shared = blob.rename(tmp_path / "shared")
    blob.symlink_to(shared)
    assert fetch() == path
    assert path.resolve() == shared


def test_a_file_elsewhere_is_not_deleted_with_the_link_to_it(
    fetch, files, content, tmp_path
):
    path = fetch()
    mine = tmp_path / "mine"
    mine.write_bytes(wrong_bytes(content))
    path.unlink()
    path.symlink_to(mine)
    # What it has to be says the hub: the link is not the library's.
    with pytest.raises(ValueError, match=r"was deleted .*SHA-256 must be"):
        fetch()
    assert mine.read_bytes() == wrong_bytes(content)
    assert [x.parent.name for x in files()] == ["blobs"]
    assert fetch().read_bytes() == content
    path.unlink()
    mine.write_bytes(content)
    path.symlink_to(mine)
    assert fetch() == path
    assert path.resolve() == mine


def test_nor_is_one_in_a_linked_directory(fetch, content, tmp_path):
    path = fetch()
    blob = path.resolve()
    path.unlink()
    mine = path.parent.rename(tmp_path / "mine") / path.name
    mine.write_bytes(wrong_bytes(content))
    path.parent.symlink_to(mine.parent)
    with pytest.raises(ValueError, match=r"could not be deleted .*other place"):
        fetch()
    assert mine.exists()
    assert blob.exists()


def test_other_files_of_the_repository_are_not_deleted(fetch, content):
    path = fetch()
    other = path.resolve().with_name("b" * 40)
    other.write_text("other weights")
    link = path.with_name("other.bin")
    link.symlink_to(other)
    config = path.with_name("config.json")
    config.write_text("{}")
    path.resolve().write_bytes(wrong_bytes(content))
    with pytest.raises(ValueError, match="was deleted"):
        fetch()
    assert link.read_text() == "other weights"
    assert config.read_text() == "{}"


@pytest.fixture
def stored(fetch, tmp_path):
    """A file that the library keeps for all repositories."""
    blob = fetch().resolve()
    store = tmp_path / "cache" / "blobs" / "ab"
    store.mkdir(parents=True)
    shared = blob.rename(store / ("ab" * 32))
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    return shared


def test_a_damaged_file_is_deleted_for_all_repositories(fetch, stored, content):
    stored.write_bytes(wrong_bytes(content))
    with pytest.raises(ValueError, match="was deleted"):
        fetch()
    assert not stored.exists()
    assert fetch().read_bytes() == content


def test_a_file_of_another_model_stays_for_other_repositories(
    fetch, stored, files
):
    checkpoint = dataclasses.replace(
        NARROW, spec=dataclasses.replace(SPEC, width=12)
    )
    with pytest.raises(ValueError, match=r"was deleted .* with width=12"):
        fetch(checkpoint)
    assert files() == []
    assert stored.exists()


def test_a_cache_that_cannot_be_written_to_is_named(
    fetch, monkeypatch, content
):
    path = fetch()
    path.resolve().write_bytes(wrong_bytes(content))

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(path))

    # Modes do not keep the superuser from it.
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        ValueError,
        match=r"could not be deleted .*Permission denied.*SHA-256 must be",
    ):
        fetch()


@pytest.fixture
def no_links(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)


@pytest.mark.usefixtures("no_links")
def test_systems_without_symbolic_links_ask_for_the_hash(
    fetch, hub, files, content
):
    path = fetch()
    assert not path.is_symlink()
    asked = hub.heads
    path.write_bytes(wrong_bytes(content))
    # It cannot be asked for, and was right when it came.
    assert fetch(endpoint=CLOSED) == path
    with pytest.raises(ValueError, match="SHA-256 must be"):
        fetch()
    assert hub.heads > asked
    assert files() == []
    assert fetch().read_bytes() == content


@pytest.mark.parametrize("library", ["huggingface_hub", "safetensors"])
def test_the_libraries_are_an_extra(fetch, hub, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImportError, match=rf'`{library}`: .*install "lambda_keras\[weights\]"'
    ):
        fetch()
    # It is said before anything is downloaded.
    assert hub.heads == 0


PROGRAM = """
import dataclasses
import huggingface_hub
import safetensors
from lambda_keras.models import get_spec
from lambda_keras.weights import CHECKPOINTS, download

# It is imported in parts, when they are needed.
huggingface_hub.hf_hub_download
spec = dataclasses.replace(get_spec("lambda_resnet_26t"), width=8)
checkpoint = dataclasses.replace(CHECKPOINTS[spec.name], spec=spec)
print("ready", flush=True)
print(download(checkpoint))
"""


def test_two_processes_at_once_share_one_download(
    hub, content, tmp_path, monkeypatch
):
    # One waits for the other, which may be slow.
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)
    # Neither gets the file before both have asked about it.
    hub.faults = Faults(heads_before=2)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        # The library reads its environment when it is imported.
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path),
            "HF_HUB_DOWNLOAD_TIMEOUT": "60",
            "KERAS_BACKEND": "numpy",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        path = download(NARROW, cache_dir=tmp_path / "hub", endpoint=hub.url)
        other, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert Path(other.strip()) == path
    assert path.read_bytes() == content
    assert hub.ranges == [0]


def test_published_figures_stand_beside_the_specs():
    for name, checkpoint in CHECKPOINTS.items():
        assert checkpoint.spec == get_spec(name)
        assert checkpoint.image_size == checkpoint.spec.image_size
        assert checkpoint.repo_id.startswith("timm/lambda_resnet")
        assert 78 < checkpoint.top_1 < 82 < checkpoint.top_5 < 96
