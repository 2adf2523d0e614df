"""Where the example of serving is, what is served, and who asks."""

import contextlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "serving"
CLASSES = ("cat", "dog", "élan")


def connect(client, protocol, address, **options):
    """Returns a client that is closed after the block."""
    kind = {"rest": client.RestClient, "grpc": client.GrpcClient}[protocol]
    options = {"model": "digits", "timeout": 20.0, **options}
    return contextlib.closing(kind(address, **options))
