"""Puts together the doors of tools: register, read, search, invoke."""

from functools import partial

from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from comitia.tools.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server
from services.meshkit.grpc.server import Registration
from services.meshkit.telemetry import metrics
from services.tools.clients.embedder import InferenceEmbedder
from services.tools.transport.tool_servicer import ToolServicer
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.invoke_tool import InvokeTool
from services.tools.usecases.register_tool import RegisterTool
from services.tools.usecases.search_tools import DefinitionVectors, SearchTools
from services.tools.usecases.stream_invoke_tool import StreamInvokeTool
from services.tools.usecases.tool_call import ToolCall
from services.tools.wiring.ground import Ground


def doors(on: Ground, catalogue: Catalogue, tool_call: ToolCall) -> Registration:
    """Gives what serves them."""
    vectors = DefinitionVectors()
    metrics.show_size("tools.definition_vectors", vectors)
    servicer = ToolServicer(
        catalogue=catalogue,
        register_tool=RegisterTool(catalogue=catalogue),
        search_tools=SearchTools(
            catalogue=catalogue,
            embedder=InferenceEmbedder(InferenceServiceStub(on.inference), ids=on.ids),
            vectors=vectors,
            clock=on.clock,
            embed_seconds=on.settings.embed_seconds,
        ),
        invoke_tool=InvokeTool(tool_call=tool_call, in_flight=on.in_flight),
        stream_invoke_tool=StreamInvokeTool(tool_call=tool_call, in_flight=on.in_flight),
        clock=on.clock,
        ids=on.ids,
    )
    return partial(add_ToolServiceServicer_to_server, servicer)
