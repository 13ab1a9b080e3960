"""The life of the local model process: load, serve, stop on SIGTERM."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from aiohttp import web

from services.inference.local import weights
from services.inference.local.chat import Chat
from services.inference.local.door import Door
from services.inference.local.embedder import embedder
from services.inference.local.settings import LocalModelSettings
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Time that answers in progress have after SIGTERM, seconds.
_DRAIN_SECONDS = 2.0


@asynccontextmanager
async def serving(settings: LocalModelSettings) -> AsyncGenerator[int]:
    """Serves both models while the block runs; gives the port.

    Without the files of the embedder only chat is served, and a line of the log says so.
    Raises: WeightsMissing: there is no language model. OSError: the address is taken.
    """
    gguf = settings.gguf_path or weights.language_model()
    try:
        open_embedder = embedder(settings, weights.embedding_model(), weights.embedding_tokenizer())
    except weights.WeightsMissing as missing:
        log.warning("there is no local embedder", why=missing.message)
        open_embedder = nullcontext()
    chat = await asyncio.to_thread(partial(Chat, settings, gguf))
    try:
        async with open_embedder as vectors:
            application = Door(settings, chat, vectors).application()
            # A client that goes away cancels its handler, and so stops the model.
            runner = web.AppRunner(
                application, handler_cancellation=True, access_log=None, shutdown_timeout=_DRAIN_SECONDS
            )
            await runner.setup()
            host, _, port = settings.listen.rpartition(":")
            try:
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
                address: tuple[str, int] = runner.addresses[0]
                log.info("the local model is ready", port=address[1], model=settings.model)
                yield address[1]
            finally:
                await runner.cleanup()
    finally:
        await asyncio.to_thread(chat.close)


async def run(settings: LocalModelSettings) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings):
        await stop.wait()
