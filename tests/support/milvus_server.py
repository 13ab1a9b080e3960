"""What stands for a Milvus server: Milvus Lite, asked on its wire. Nothing shows here that only a cluster has."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def milvus_server(folder: Path) -> Iterator[str]:
    """Runs one while the block runs; gives its address."""
    # Late, for it takes in pymilvus: who only names this module works without.
    adapter = importlib.import_module("milvus_lite.adapter.grpc.server")
    server, database, port = adapter.start_server_in_thread(str(folder))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(grace=2).wait()
        database.close()
