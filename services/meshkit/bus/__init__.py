"""NATS: durable messages on JetStream, and live text that nobody misses when it is lost."""

from services.meshkit.core.imports import without

# The client would speak WebSocket by it, 6 MB that half of the services load for nothing else; `bus.py` gives it back
# where an address asks for it.
with without("aiohttp"):
    import nats.aio.transport as _transport  # noqa: F401  # pyright: ignore[reportUnusedImport]
