"""A server on this machine that stands for the Hugging Face hub.

It answers as the hub does for large files: the address of a file says what
the file is (its commit, size and SHA-256) and sends on to another host for the
file itself. Faults can be ordered beforehand.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclasses.dataclass
class Repository:
    """A repository with one file.

    Attributes:
        content: The file.
        commit: The commit of its branch `main`.
        stated_sha256: What the hub says of the file; by default the truth.
    """

    content: bytes
    commit: str = COMMIT
    stated_sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.stated_sha256 or hashlib.sha256(self.content).hexdigest()


@dataclasses.dataclass
class Faults:
    """What goes wrong.

    Attributes:
        resolve_status: What a request for the address of a file gets, if not
            the address.
        file_status: What a request for the file itself gets, if not the file.
        cut_after: After how many bytes of the file the connection is closed.
        is_reset: Whether it is reset, as if the other end were gone.
        stall_after: After how many nothing more comes.
        times: For how many requests of the file itself `cut_after`,
            `stall_after` and `file_status` hold.
        sent: What is sent in the place of the file.
        heads_before: How many questions there have to be before any file.
    """

    resolve_status: int | None = None
    file_status: int | None = None
    cut_after: int | None = None
    is_reset: bool = False
    stall_after: int | None = None
    times: float = float("inf")
    sent: bytes | None = None
    heads_before: int = 0


class HubServer(http.server.ThreadingHTTPServer):
    """The server; see `running_hub`.

    Attributes:
        repositories: By name, what there is.
        faults: What goes wrong from now on.
        heads: How many questions there were about files.
        ranges: Of each request of a file itself, from which byte on.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.heads = 0
        self.ranges: list[int] = []
        self.is_closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients may go away; that is what some tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self):
        self.server.heads += 1
        self._resolve()

    def do_GET(self):
        if self.path.startswith("/file/"):
            self._send_file()
        else:
            self._resolve()

    def _resolve(self):
        match = re.fullmatch(r"/(.+)/resolve/(.+)/model.safetensors", self.path)
        name, revision = match.groups() if match else (None, None)
        repository = self.server.repositories.get(name)
        if self.server.faults.resolve_status:
            self._answer(self.server.faults.resolve_status)
        elif repository is None:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repository.commit):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            # Another host, to the library.
            host = f"http://localhost:{self.server.server_port}"
            self._answer(
                302,
                {
                    "Location": f"{host}/file/{name}",
                    "X-Repo-Commit": repository.commit,
                    "X-Linked-Etag": f'"{repository.etag}"',
                    "X-Linked-Size": str(len(repository.content)),
                },
            )

    def _send_file(self):
        faults = self.server.faults
        while self.server.heads < faults.heads_before:
            if self.server.is_closing.wait(0.01):
                return
        repository = self.server.repositories[self.path[len("/file/") :]]
        content = repository.content if faults.sent is None else faults.sent
        start, end = self._first_byte(), len(content)
        self.server.ranges.append(start)
        is_wrong = len(self.server.ranges) <= faults.times
        if is_wrong and faults.file_status:
            self._answer(faults.file_status)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(end - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.end_headers()
        stops = [faults.cut_after, faults.stall_after]
        stop = next((x for x in stops if x is not None), None)
        if not is_wrong or stop is None:
            self.wfile.write(content[start:])
            return
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        if faults.stall_after is not None:
            self.server.is_closing.wait()
        self.close_connection = True
        if faults.is_reset:
            # Closed without waiting for what is still to be sent.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            os.close(self.connection.detach())

    def _first_byte(self):
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match.group(1)) if match else 0

    def _answer(self, status, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    """Yields a server that answers as long as the block runs."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.is_closing.set()
            server.shutdown()
            thread.join()
