"""A stranger with grpcurl finds all seven services by reflection alone and calls them with `comitia token`."""

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.support.mesh import RunningMesh
from tests.support.public_rpcs import INTERNAL, PUBLIC

SEVEN = {"cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools"}


def grpcurl(mesh: RunningMesh, *arguments: str, token: str = "", say: str = "") -> str:
    """Runs grpcurl against the edge; gives what it printed."""
    command = [str(Path(sys.executable).with_name("grpcurl")), "-plaintext"]
    if token:
        command += ["-H", f"authorization: Bearer {token}"]
    if say:
        command += ["-d", say]
    done = subprocess.run([*command, mesh.target, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def token(mesh: RunningMesh) -> str:
    return mesh.comitia("token").stdout.strip()


def test_all_seven_are_listed(mesh: RunningMesh) -> None:
    listed = set(grpcurl(mesh, "list").split())
    assert {name.split(".")[1] for name in listed if name.startswith("comitia.")} == SEVEN
    assert {rpc.path.split("/")[1] for rpc in PUBLIC} <= listed


def test_every_public_rpc_is_described_and_no_internal_one(mesh: RunningMesh) -> None:
    services = {rpc.path.split("/")[1] for rpc in PUBLIC}
    described = "".join(grpcurl(mesh, "describe", service) for service in sorted(services))
    for rpc in PUBLIC:
        assert f"rpc {rpc.method.name} " in described
    for rpc in INTERNAL:
        assert f"rpc {rpc.method.name} " not in described


def test_every_public_rpc_is_described_by_its_own_name(mesh: RunningMesh) -> None:
    """Asked by one stream; grpcurl, which is a process for each name, asks for one of each of the seven."""
    names = [rpc.path[1:].replace("/", ".") for rpc in PUBLIC]
    asked = (ServerReflectionRequest(file_containing_symbol=name) for name in names)
    with grpc.insecure_channel(mesh.target) as channel:
        stub = ServerReflectionStub(channel)
        answers = list(stub.ServerReflectionInfo(asked, timeout=30))  # pyright: ignore[reportCallIssue]
    for name, answer in zip(names, answers, strict=True):
        files = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        assert name in {
            f"{file.package}.{service.name}.{method.name}"
            for file in files
            for service in file.service
            for method in service.method
        }
    for name in {name.split(".")[1]: name for name in names}.values():
        assert f"{name} is a method" in grpcurl(mesh, "describe", name)


@pytest.mark.parametrize("service", sorted(SEVEN))
def test_a_call_to_each_works_with_the_token_that_comitia_prints(mesh: RunningMesh, token: str, service: str) -> None:
    method, say, found = {
        "cost": ("cost.v1.BudgetService/GetBudget", '{"budget_id": "tenant"}', "budget"),
        "gateway": ("gateway.v1.IdentityService/WhoAmI", "", "subject"),
        "inference": ("inference.v1.ModelService/ListModels", "", "models"),
        "memory": ("memory.v1.MemoryService/Remember", '{"parts": [{"text": {"text": "Rivers."}}]}', "memory"),
        "orchestrator": ("orchestrator.v1.AgentService/CreateAgent", a_curled_agent(), "agent"),
        "policy": ("policy.v1.BundleService/ListBundles", "", "bundles"),
        "tools": ("tools.v1.ToolService/InvokeTool", a_calculation(), "invocation"),
    }[service]
    answer = json.loads(grpcurl(mesh, f"comitia.{method}", token=token, say=say))
    assert answer[found]


def a_curled_agent() -> str:
    return json.dumps({"agent": {"name": "Curled", "version": "1.0.0"}})


def a_calculation() -> str:
    return json.dumps({"name": "calculator", "arguments": {"expression": "6 * 7"}})


def test_a_stream_is_followed_to_its_end(mesh: RunningMesh, token: str) -> None:
    prompt = {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": "Rivers?"}}]}]}
    printed = grpcurl(mesh, "comitia.inference.v1.InferenceService/StreamGenerate", token=token, say=json.dumps(prompt))
    decoder, events, place = json.JSONDecoder(), [], 0
    while place < len(printed.rstrip()):
        event, place = decoder.raw_decode(printed, place)
        place += len(printed[place:]) - len(printed[place:].lstrip())
        events.append(event)
    assert [event["sequence"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1]["generation"]["provider"] == "openai"
