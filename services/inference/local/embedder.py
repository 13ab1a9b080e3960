"""Vectors by all-MiniLM-L6-v2 (int8, ONNX): mean over the tokens of a text, scaled to length 1.

Texts that wait at the same time share a run of the model, those of like length together, since short ones are padded
to the longest of their run.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from services.inference.local.settings import LocalModelSettings
from services.meshkit.core.errors import Exhausted

#: Texts of one run of the model.
_RUN_TEXTS: Final = 8
#: Texts taken from the queue at once.
_BATCH_TEXTS: Final = 64


class EmbedderBusy(Exhausted):
    """As many texts wait as this process takes."""

    reason = "LOCAL_EMBEDDER_BUSY"


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """The vector of a text, float32 of length 1, and its tokens."""

    vector: list[float]
    tokens: int


class MiniLm:
    """The model itself; blocking, for a thread of its own."""

    def __init__(self, model: Path, tokenizer: Path, *, threads: int, most_tokens: int) -> None:
        onnx: Any = onnxruntime  # has no types
        options = onnx.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnx.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))  # whose types leave out keywords
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(most_tokens)

    def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """Gives the vectors of texts, in order."""
        tokens: list[list[int]] = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        by_length = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        made: dict[int, EmbeddedText] = {}
        for start in range(0, len(by_length), _RUN_TEXTS):
            run = by_length[start : start + _RUN_TEXTS]
            vectors = self._run([tokens[index] for index in run])
            for index, vector in zip(run, vectors, strict=True):
                made[index] = EmbeddedText(vector.tolist(), len(tokens[index]))
        return [made[index] for index in range(len(tokens))]

    def _run(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        longest = max(len(ids) for ids in tokens)
        ids = np.zeros((len(tokens), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text_ids in enumerate(tokens):
            ids[row, : len(text_ids)] = text_ids
            mask[row, : len(text_ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden: NDArray[np.float32] = self._session.run(None, inputs)[0]
        weights = mask[:, :, None].astype(np.float32)
        means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


@dataclass(slots=True)
class _Waiting:
    texts: list[str]
    future: "asyncio.Future[list[EmbeddedText]]"


class Embedder:
    """Gathers the texts that wait and has them embedded in a thread."""

    def __init__(self, model: MiniLm, *, max_waiting_texts: int) -> None:
        self._model = model
        self._most = max_waiting_texts
        self._queue: deque[_Waiting] = deque()
        self._texts = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    @property
    def waiting_texts(self) -> int:
        """Texts that wait or are being embedded."""
        return self._texts

    async def embed(self, texts: list[str]) -> list[EmbeddedText]:
        """Gives the vectors of texts, in order.

        Raises: EmbedderBusy.
        """
        if self._texts + len(texts) > self._most:
            raise EmbedderBusy("the local embedder has too much to do; try again shortly", most=self._most)
        waiting = _Waiting(texts, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._texts += len(texts)
        self._wake.set()
        try:
            return await waiting.future
        finally:
            self._texts -= len(texts)

    async def run(self) -> None:
        """Works until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._take():
                texts = [text for waiting in batch for text in waiting.texts]
                made = iter(await loop.run_in_executor(self._thread, self._model.embed, texts))
                for waiting in batch:
                    vectors = [next(made) for _ in waiting.texts]
                    if not waiting.future.done():
                        waiting.future.set_result(vectors)

    def _take(self) -> list[_Waiting]:
        """Takes what waits, up to a batch; callers that went away are left out."""
        batch: list[_Waiting] = []
        texts = 0
        while self._queue and (not batch or texts + len(self._queue[0].texts) <= _BATCH_TEXTS):
            waiting = self._queue.popleft()
            if not waiting.future.done():
                batch.append(waiting)
                texts += len(waiting.texts)
        return batch

    def close(self) -> None:
        """Frees the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


@asynccontextmanager
async def embedder(settings: LocalModelSettings, model: Path, tokenizer: Path) -> AsyncGenerator[Embedder]:
    """Loads the model and works while the block runs."""
    mini_lm = await asyncio.to_thread(
        MiniLm, model, tokenizer, threads=settings.embedding_threads, most_tokens=settings.embedding_tokens
    )
    opened = Embedder(mini_lm, max_waiting_texts=settings.max_waiting_texts)
    worker = asyncio.create_task(opened.run(), name="embedder")
    try:
        yield opened
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        opened.close()
