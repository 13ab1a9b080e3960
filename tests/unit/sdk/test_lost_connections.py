import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from comitia_sdk.errors import InternalFailure, MeshUnavailable, from_rpc_error

_RESET = "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"


def failed(
    details: str, *, code: grpc.StatusCode = grpc.StatusCode.INTERNAL, trailing: grpc.aio.Metadata | None = None
) -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, none, trailing or none, details=details)


def test_an_answer_that_broke_off_is_no_fault_of_the_mesh() -> None:
    lost = from_rpc_error(failed(_RESET))
    assert isinstance(lost, MeshUnavailable)
    assert (lost.reason, lost.metadata) == ("CONNECTION_LOST", {"cause": _RESET})
    assert "same request_id" in lost.message


def test_a_call_that_came_as_its_server_stopped_is_no_fault_of_the_mesh() -> None:
    lost = from_rpc_error(failed("CANCELLED", code=grpc.StatusCode.CANCELLED))
    assert isinstance(lost, MeshUnavailable)
    assert lost.reason == "CONNECTION_LOST"


@pytest.mark.parametrize("details", ["something broke in the mesh", "Exception deserializing response!"])
def test_other_internal_failures_are_not_taken_for_it(details: str) -> None:
    assert isinstance(from_rpc_error(failed(details)), InternalFailure)


def test_a_failure_with_details_is_the_meshs_own_whatever_it_says() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=_RESET)
    status.details.add().Pack(status_pb2.Status())
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    assert isinstance(from_rpc_error(failed(_RESET, trailing=trailing)), InternalFailure)
