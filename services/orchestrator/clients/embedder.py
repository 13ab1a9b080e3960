"""Embeds texts for somebody who compares runs."""

from collections.abc import Sequence
from typing import Final

import grpc.aio

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content.call import DIRECT
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.orchestrator.record.comparing import Vector
from services.orchestrator.record.pins import seen_of

_SECONDS: Final = 30.0
#: Texts of one call.
_TEXTS_AT_ONCE: Final = 64


class MeshEmbedder:
    """Implements `usecases.diff_runs.Embedder` by inference."""

    def __init__(self, inference: grpc.aio.Channel, *, ids: IdSource) -> None:
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(inference)
        self._ids = ids

    async def vectors(
        self, caller: Caller, texts: Sequence[str], *, of_run: journal_pb2.RunStarted
    ) -> Sequence[Vector]:
        """See `Embedder.vectors`."""
        context = content_pb2.CallContext(
            # No run makes these calls: somebody looks at two of them.
            call_id=content_pb2.CallId(run_id=self._ids.new(DIRECT), path="DiffRuns"),
            project=seen_of(of_run).metadata.get("project", ""),
            residency_region=of_run.session.residency_region,
        )
        found: list[Vector] = []
        for index, start in enumerate(range(0, len(texts), _TEXTS_AT_ONCE)):
            context.call_id.call_index = index
            request = inference_service_pb2.EmbedRequest(context=context, texts=texts[start : start + _TEXTS_AT_ONCE])
            with remote_errors():
                answer = await self._inference.Embed(
                    request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
                )
            found += [(answer.model, list(embedding.values)) for embedding in answer.embeddings]
        return found
