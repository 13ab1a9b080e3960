"""Batches: prompts that may wait, answered within a day."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from comitia.inference.v1 import (
    inference_service_pb2,
    model_batch_pb2,
    model_batch_service_pb2,
    model_batch_service_pb2_grpc,
)
from comitia_sdk.connection import Connection
from comitia_sdk.nouns.models import message

#: States in which a batch stays.
ENDED: Final = frozenset(
    {
        model_batch_pb2.MODEL_BATCH_STATE_ENDED,
        model_batch_pb2.MODEL_BATCH_STATE_CANCELLED,
        model_batch_pb2.MODEL_BATCH_STATE_LOST,
    }
)
#: Longest time until a batch is taken: its prompts are looked at one by one.
_CREATE_TIMEOUT: Final = 60.0


class AsyncBatches:
    """Batches of prompts that a provider answers within a day, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = model_batch_service_pb2_grpc.ModelBatchServiceStub(connection.channel)

    async def create(
        self,
        prompts: Mapping[str, str | inference_service_pb2.GenerateRequest],
        *,
        model: str = "",
        max_output_tokens: int = 0,
        request_id: str = "",
    ) -> model_batch_pb2.ModelBatch:
        """Hands prompts over and returns at once.

        Args:
            prompts: by ids of your choice, which the results carry.
            max_output_tokens: longest answer to each prompt that is a text.
        Raises: InvalidRequest, NotFound, FailedPrecondition (the model does no batches), LimitReached.
        """
        items = [
            model_batch_service_pb2.CreateModelBatchRequest.Item(
                item_id=item_id,
                generate=inference_service_pb2.GenerateRequest(
                    messages=[message(prompt)], max_output_tokens=max_output_tokens
                )
                if isinstance(prompt, str)
                else prompt,
            )
            for item_id, prompt in prompts.items()
        ]
        request = model_batch_service_pb2.CreateModelBatchRequest(model=model, items=items, request_id=request_id)
        return (await self._connection.call(self._stub.CreateModelBatch, request, timeout=_CREATE_TIMEOUT)).batch

    async def get(self, batch_id: str) -> model_batch_pb2.ModelBatch:
        """Fetches a batch. Raises: NotFound."""
        request = model_batch_service_pb2.GetModelBatchRequest(batch_id=batch_id)
        return (await self._connection.call(self._stub.GetModelBatch, request)).batch

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[model_batch_pb2.ModelBatch]:
        """Gives batches, newest first."""
        request = model_batch_service_pb2.ListModelBatchesRequest(page_size=page_size)
        async for page in self._connection.pages(self._stub.ListModelBatches, request):
            for batch in page.batches:
                yield batch

    async def cancel(self, batch_id: str) -> model_batch_pb2.ModelBatch:
        """Asks for a batch to stop. What is answered already is paid for and shown. Raises: NotFound,
        FailedPrecondition (it has ended).
        """
        request = model_batch_service_pb2.CancelModelBatchRequest(batch_id=batch_id)
        return (await self._connection.call(self._stub.CancelModelBatch, request)).batch

    async def results(self, batch_id: str, *, page_size: int = 0) -> AsyncGenerator[model_batch_pb2.ModelBatchResult]:
        """Gives what became of each prompt, in their order. Raises: NotFound."""
        request = model_batch_service_pb2.ListModelBatchResultsRequest(batch_id=batch_id, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListModelBatchResults, request):
            for result in page.results:
                yield result

    async def watch(self, batch_id: str, *, every: float = 5.0) -> AsyncGenerator[model_batch_pb2.ModelBatch]:
        """Gives a batch as it is now and whenever it has changed, until it has ended.

        Args:
            every: pause between two looks, seconds.
        """
        seen: model_batch_pb2.ModelBatch | None = None
        while True:
            batch = await self.get(batch_id)
            if batch != seen:
                seen = batch
                yield batch
            if batch.state in ENDED:
                return
            await asyncio.sleep(every)
