"""Batches of the fake mesh: each look at one brings it a step nearer to its end."""

from dataclasses import dataclass, field
from typing import Any

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, model_batch_pb2, model_batch_service_pb2


@dataclass
class Batches:
    """Answers every prompt with itself."""

    batches: dict[str, model_batch_pb2.ModelBatch] = field(default_factory=dict[str, model_batch_pb2.ModelBatch])
    items: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def CreateModelBatch(self, request: Any, _context: Any) -> model_batch_service_pb2.CreateModelBatchResponse:
        made = model_batch_pb2.ModelBatch(
            batch_id=f"batch_{len(self.batches) + 1}",
            state=model_batch_pb2.MODEL_BATCH_STATE_RUNNING,
            deployment=request.model or "openai/gpt-4o-mini",
            item_count=len(request.items),
        )
        self.batches[made.batch_id] = made
        self.items[made.batch_id] = list(request.items)
        return model_batch_service_pb2.CreateModelBatchResponse(batch=made)

    def GetModelBatch(self, request: Any, _context: Any) -> model_batch_service_pb2.GetModelBatchResponse:
        batch = self.batches[request.batch_id]
        if batch.state == model_batch_pb2.MODEL_BATCH_STATE_RUNNING:
            batch.state = model_batch_pb2.MODEL_BATCH_STATE_ENDED
            batch.answered_count = batch.item_count
        return model_batch_service_pb2.GetModelBatchResponse(batch=batch)

    def ListModelBatches(self, _request: Any, _context: Any) -> model_batch_service_pb2.ListModelBatchesResponse:
        newest = reversed(self.batches.values())
        return model_batch_service_pb2.ListModelBatchesResponse(batches=newest)

    def CancelModelBatch(self, request: Any, _context: Any) -> model_batch_service_pb2.CancelModelBatchResponse:
        batch = self.batches[request.batch_id]
        batch.state = model_batch_pb2.MODEL_BATCH_STATE_CANCELLING
        return model_batch_service_pb2.CancelModelBatchResponse(batch=batch)

    def ListModelBatchResults(
        self, request: Any, _context: Any
    ) -> model_batch_service_pb2.ListModelBatchResultsResponse:
        results = [
            model_batch_pb2.ModelBatchResult(
                item_id=item.item_id,
                state=model_batch_pb2.MODEL_BATCH_ITEM_STATE_ANSWERED,
                generation=generation_pb2.Generation(
                    parts=[content_pb2.Part(text=content_pb2.TextPart(text=f"heard: {_said(item)}"))]
                ),
            )
            for item in self.items[request.batch_id]
        ]
        return model_batch_service_pb2.ListModelBatchResultsResponse(results=results)


def _said(item: Any) -> str:
    return item.generate.messages[0].parts[0].text.text
