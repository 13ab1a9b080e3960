"""The error table: every kind has a status, every reason is unique, nothing is lost on the wire."""

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

import services
from services.meshkit.core.errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    ErrorKind,
    Exhausted,
    Internal,
    Invalid,
    MeshError,
    NotFound,
    Precondition,
    Unavailable,
)
from services.meshkit.grpc.errors import (
    DETAILS_TRAILER,
    STATUS_OF,
    RemoteError,
    from_status,
    remote_error,
    to_status,
)


def all_errors(kind: type[MeshError] = MeshError) -> Iterator[type[MeshError]]:
    for derived in kind.__subclasses__():
        # A name with `_` is a base that services derive from and never raise.
        if not derived.__name__.startswith("_"):
            yield derived
        yield from all_errors(derived)


def service_of(error: type[MeshError]) -> str:
    """The service whose domain the reason belongs to: `ErrorInfo` makes reasons unique within a domain."""
    return error.__module__.split(".")[1] if error.__module__.startswith("services.") else "tests"


def import_error_modules() -> None:
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_every_kind_has_a_status_of_its_own() -> None:
    assert set(STATUS_OF) == set(ErrorKind)
    assert len(set(STATUS_OF.values())) == len(ErrorKind)


def test_every_error_has_a_kind_and_a_reason_that_is_unique_in_its_domain() -> None:
    import_error_modules()
    by_reason: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    everywhere = {error.reason for error in all_errors() if service_of(error) == "meshkit"}
    for error in all_errors():
        assert error.kind in STATUS_OF, error
        # One that names no reason of its own means what its parent means, only said more precisely in code.
        if "reason" in vars(error):
            domain = "meshkit" if error.reason in everywhere else service_of(error)
            by_reason[domain, error.reason].add(f"{error.__module__}.{error.__qualname__}")
    assert not {reason: names for reason, names in by_reason.items() if len(names) > 1}


@pytest.mark.parametrize(
    "error",
    [
        Invalid("topic", "is empty; say what to talk about", limit=5),
        NotFound("run", "run_1"),
        AlreadyExists("agent", "Athena"),
        Precondition("the run has ended", run_id="run_1"),
        Conflict("somebody was faster"),
        Exhausted("the budget is used up", budget="budget_1", retry_after=timedelta(seconds=3)),
        Unavailable("postgres"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_wire(error: MeshError) -> None:
    back = from_status(to_status(error, domain="cost.comitia"))
    assert (back.kind, back.reason, back.message) == (error.kind, error.reason, error.message)
    assert (back.metadata, back.retry_after, back.field) == (error.metadata, error.retry_after, error.field)
    assert isinstance(back, RemoteError)
    assert back.domain == "cost.comitia"


def test_the_domain_of_a_neighbour_is_kept_when_its_error_is_passed_on() -> None:
    remote = from_status(to_status(Exhausted("used up"), domain="cost.comitia"))
    info = error_details_pb2.ErrorInfo()
    assert to_status(remote, domain="inference.comitia").details[0].Unpack(info)
    assert info.domain == "cost.comitia"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (Invalid("a", "is wrong"), error_details_pb2.BadRequest),
        (NotFound("run", "run_1"), error_details_pb2.ResourceInfo),
        (AlreadyExists("run", "run_1"), error_details_pb2.ResourceInfo),
        (Precondition("no"), error_details_pb2.PreconditionFailure),
        (Exhausted("no"), error_details_pb2.QuotaFailure),
        (Unavailable("postgres"), error_details_pb2.RetryInfo),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_kind_carries_its_standard_detail(error: MeshError, detail: type) -> None:
    status = to_status(error, domain="x.comitia")
    assert any(packed.Is(detail.DESCRIPTOR) for packed in status.details)


def test_what_is_absent_still_says_which_field_named_it() -> None:
    absent = NotFound("agent", "Nobody", field="agents[1]")
    read = from_status(to_status(absent, domain="x.comitia"))
    assert (read.field, read.metadata["field"]) == ("agents[1]", "agents[1]")
    assert read.message == "agents[1]: agent 'Nobody' does not exist"
    again = from_status(to_status(read, domain="y.comitia"))
    assert again.field == "agents[1]"


def test_an_endless_message_still_fits_into_the_trailers() -> None:
    status = to_status(Invalid("x" * 9000, "y" * 100_000, **{f"k{n}": "z" * 9000 for n in range(99)}), domain="x")
    assert status.ByteSize() < 7000


@pytest.mark.parametrize("details", ["Internal error from Core", "Received RST_STREAM with error code 2"])
def test_a_connection_that_broke_is_a_neighbour_that_is_away_and_not_one_at_fault(details: str) -> None:
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    assert remote_error(broken).kind is ErrorKind.UNAVAILABLE
    reported = to_status(Internal("a fault of its own"), domain="cost.comitia")
    trailers = grpc.aio.Metadata((DETAILS_TRAILER, reported.SerializeToString()))
    fault = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, details="a fault")
    assert remote_error(fault).kind is ErrorKind.INTERNAL


def test_a_call_that_a_stopping_server_did_not_take_is_told_apart_from_one_that_was_cancelled() -> None:
    none = grpc.aio.Metadata()
    stopping = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, none, none, details="CANCELLED")
    assert remote_error(stopping).kind is ErrorKind.UNAVAILABLE
    reported = to_status(Cancelled("nobody waits for it"), domain="cost.comitia")
    trailers = grpc.aio.Metadata((DETAILS_TRAILER, reported.SerializeToString()))
    cancelled = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, none, trailers, details="nobody waits for it")
    assert remote_error(cancelled).kind is ErrorKind.CANCELLED
