"""Answers by llama.cpp: each request has a thread while its answer is made, and gives chunks as JSON bytes."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import xllamacpp

from services.inference.local.settings import LocalModelSettings
from services.inference.local.weights import WeightsUnreadable
from services.meshkit.core.errors import Exhausted
from services.meshkit.telemetry.logs import logger

log = logger(__name__)

#: Only these parameters reach the model; the rest of a request is left aside.
_ALLOWED: Final = frozenset(
    {"messages", "max_tokens", "temperature", "stop", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"}
    | {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
)
#: The library has no types.
_LLAMA: Final[Any] = xllamacpp
#: llama.cpp says errors only.
_VERBOSITY: Final = 0


class ChatBusy(Exhausted):
    """As many answers are made and wait as this process takes."""

    reason = "LOCAL_MODEL_BUSY"


class Chat:
    """The language model. Closing a stream stops the model at its next token.

    Raises: WeightsUnreadable: the file cannot be loaded.
    """

    def __init__(self, settings: LocalModelSettings, gguf: Path) -> None:
        self._parallel = settings.parallel
        self._most = settings.parallel + settings.max_waiting
        self._admitted = 0
        self._threads = ThreadPoolExecutor(settings.parallel, thread_name_prefix="chat")
        try:
            self._server = _LLAMA.Server(_parameters(settings, gguf))
        except RuntimeError as cause:
            raise WeightsUnreadable(gguf) from cause

    @property
    def admitted(self) -> int:
        """Answers that are made or wait."""
        return self._admitted

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[bytes]:
        """Gives the chunks of an answer, usage in the last one; an error comes as the only chunk.

        Raises: ChatBusy.
        """
        if self._admitted >= self._most:
            raise ChatBusy("the local model has too much to do; try again shortly", most=self._most)
        asked = {name: request[name] for name in _ALLOWED if request.get(name) is not None}
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = _Answer(asyncio.get_running_loop())
        self._admitted += 1
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._answer, msgspec.json.encode(asked), answer
        )
        work.add_done_callback(self._done)
        try:
            async for chunk in answer.chunks():
                yield chunk
            await work
        finally:
            answer.stopped = True

    def _answer(self, request: bytes, answer: "_Answer") -> None:
        """Runs in a thread: the callback gets each chunk and says True to stop."""
        try:
            if not answer.stopped:
                self._server.handle_chat_completions(request, answer.take)
        finally:
            answer.end()

    def _done(self, work: "asyncio.Future[None]") -> None:
        self._admitted -= 1
        if not work.cancelled() and (error := work.exception()) is not None:
            log.error("llama.cpp failed", error=repr(error))

    def close(self) -> None:
        """Waits for answers in progress and frees the model."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        del self._server


class _Answer:
    """Carries chunks from the thread to the loop; the limit of the answer bounds how many there are."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.stopped = False

    def take(self, chunk: bytes) -> bool:
        """Takes a chunk in the thread; True stops the model."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, chunk)
        return self.stopped

    def end(self) -> None:
        """Says in the thread that no more chunks come."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Gives the chunks in the loop."""
        while (chunk := await self._queue.get()) is not None:
            yield chunk


def _parameters(settings: LocalModelSettings, gguf: Path) -> Any:
    parameters = _LLAMA.CommonParams()
    parameters.model.path = str(gguf)
    parameters.model_alias = {settings.model}
    parameters.n_ctx = settings.context_tokens
    parameters.n_parallel = settings.parallel
    parameters.kv_unified = True
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    parameters.verbosity = _VERBOSITY
    # Prompts of other callers are not kept in memory beyond the slots.
    parameters.cache_ram_mib = 0
    parameters.ui = False
    return parameters
