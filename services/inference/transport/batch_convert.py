"""What ModelBatchService says, proto to domain and back, pure."""

from dataclasses import replace
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.inference.v1 import inference_service_pb2, model_batch_pb2
from comitia.inference.v1 import model_batch_service_pb2 as pb
from services.inference.domain.answer import Answer
from services.inference.domain.batch_job import BatchItem, BatchState, ItemState
from services.inference.domain.prompt import Prompt
from services.inference.transport.convert import generation_to_proto, prompt_of
from services.inference.usecases.batch_ports import BatchView
from services.inference.usecases.batches import AskedItem, check_item_ids
from services.meshkit.core.errors import Invalid, MeshError

_STATES: Final = {
    BatchState.ACCEPTED: model_batch_pb2.MODEL_BATCH_STATE_ACCEPTED,
    BatchState.HELD: model_batch_pb2.MODEL_BATCH_STATE_HELD,
    BatchState.SUBMITTING: model_batch_pb2.MODEL_BATCH_STATE_SUBMITTING,
    BatchState.RUNNING: model_batch_pb2.MODEL_BATCH_STATE_RUNNING,
    BatchState.CANCELLING: model_batch_pb2.MODEL_BATCH_STATE_CANCELLING,
    BatchState.ENDED: model_batch_pb2.MODEL_BATCH_STATE_ENDED,
    BatchState.CANCELLED: model_batch_pb2.MODEL_BATCH_STATE_CANCELLED,
    BatchState.LOST: model_batch_pb2.MODEL_BATCH_STATE_LOST,
    BatchState.UNREADABLE: model_batch_pb2.MODEL_BATCH_STATE_UNREADABLE,
}
_ITEM_STATES: Final = {
    ItemState.WAITING: model_batch_pb2.MODEL_BATCH_ITEM_STATE_WAITING,
    ItemState.SENT: model_batch_pb2.MODEL_BATCH_ITEM_STATE_SENT,
    ItemState.ANSWERED: model_batch_pb2.MODEL_BATCH_ITEM_STATE_ANSWERED,
    ItemState.FAILED: model_batch_pb2.MODEL_BATCH_ITEM_STATE_FAILED,
    ItemState.CANCELLED: model_batch_pb2.MODEL_BATCH_ITEM_STATE_CANCELLED,
    ItemState.UNKNOWN: model_batch_pb2.MODEL_BATCH_ITEM_STATE_UNKNOWN,
    ItemState.UNREADABLE: model_batch_pb2.MODEL_BATCH_ITEM_STATE_UNREADABLE,
}
#: What a call says that an item of a batch does not.
_OF_THE_BATCH: Final = ("context", "model", "request_id", "policy")


def items_of(request: pb.CreateModelBatchRequest) -> list[AskedItem]:
    """Reads and checks the items. Raises: Invalid, naming the field."""
    check_item_ids([item.item_id for item in request.items])
    return [_item_of(item, f"items[{index}].generate") for index, item in enumerate(request.items)]


def _item_of(item: pb.CreateModelBatchRequest.Item, place: str) -> AskedItem:
    for descriptor, _ in item.generate.ListFields():
        if descriptor.name in _OF_THE_BATCH:
            raise Invalid(f"{place}.{descriptor.name}", "must be empty in a batch")
    try:
        prompt = prompt_of(item.generate)
    except MeshError as error:
        if error.field is not None:
            error.field = f"{place}.{error.field}"
        raise
    return AskedItem(item_id=item.item_id, prompt=prompt, request=item.generate.SerializeToString(deterministic=True))


def read_prompt(request: bytes) -> Prompt:
    """Reads a prompt back from what was kept of it."""
    return prompt_of(inference_service_pb2.GenerateRequest.FromString(request))


def batch_to_proto(view: BatchView) -> model_batch_pb2.ModelBatch:
    """Writes a batch."""
    job, counts = view.job, view.counts
    return model_batch_pb2.ModelBatch(
        batch_id=job.name,
        state=_STATES[job.state],
        deployment=job.deployment,
        deployment_version=job.version,
        provider=job.payee,
        provider_batch_id=job.provider_id,
        item_count=job.item_count,
        answered_count=counts.get(ItemState.ANSWERED, 0),
        failed_count=counts.get(ItemState.FAILED, 0),
        cancelled_count=counts.get(ItemState.CANCELLED, 0),
        unknown_count=counts.get(ItemState.UNKNOWN, 0),
        reason=job.reason,
        create_time=_timestamp(job.created),
        submit_time=_timestamp(job.submitted),
        end_time=_timestamp(job.ended),
        cancel_requested=job.cancel_requested,
    )


def result_to_proto(item: BatchItem) -> model_batch_pb2.ModelBatchResult:
    """Writes what became of an item. An answer is shown once the law has passed it, and never before."""
    shown = item.outcome if item.state is ItemState.ANSWERED and isinstance(item.outcome, Answer) else None
    if shown is not None and item.charged is not None:
        shown = replace(shown, cost_nano_usd=item.charged)
    return model_batch_pb2.ModelBatchResult(
        item_id=item.item_id,
        state=_ITEM_STATES[item.state],
        generation=None if shown is None else generation_to_proto(shown),
        reason=item.reason,
        hold_id=item.hold_id,
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    written = Timestamp()
    written.FromDatetime(time)
    return written
