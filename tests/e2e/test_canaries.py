"""Nothing secret, and nothing of what users say, in anything that the mesh writes for people to read.

A mesh of its own runs at log level DEBUG with traces on, and is led through what works and what fails, with texts that
occur nowhere else as prompts, arguments, keys and tokens. Then every output is searched for them: the logs of all
parts, the edge's log of requests, metrics pages, traces, refusals, and what the command line prints. Beside that,
what users say must not be readable in the files of the databases.
"""

import asyncio
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from comitia_sdk.errors import ComitiaError
from comitia_sdk.sync import Client
from services.launcher.ports import metrics_port_name
from services.launcher.services import SERVICES
from services.meshkit.core.ids import SystemIds
from services.meshkit.telemetry import genai, names
from tests.e2e.doors import EDGE, at_once, bearer, open_doors, shown_by
from tests.e2e.owner import asked_inside
from tests.e2e.terminal import Terminal, browser_of
from tests.e2e.test_every_rpc import OPERATORS, REQUESTS, World, a_signed_size, provider, walked_tenant
from tests.support.mesh import RunningMesh, running_mesh
from tests.support.oidc_provider import CLIENT_ID, OidcProvider
from tests.support.otlp import Receiver, running_receiver
from tests.support.providers.fake import KEY
from tests.support.public_rpcs import PUBLIC, Rpc
from tests.support.request_fields import text_fields
from tests.support.whose import Whose, ids_in

__all__ = ["provider"]  # a fixture

RUN: Final = token_hex(4)
#: RPCs of a tenant's own work. Operators see every tenant; open RPCs know none.
TENANTS_OWN: Final = tuple(rpc for rpc in PUBLIC if not rpc.guard.open and not rpc.name.startswith(OPERATORS))
#: Attributes of spans that name what a call was about; a path names the agent.
NAMES_IN_TRACES: Final = (
    *(genai.REQUEST_MODEL, genai.RESPONSE_MODEL, genai.PROVIDER, genai.TOOL_NAME, genai.AGENT_NAME),
    *(genai.CONVERSATION_ID, names.ATTRIBUTE_CORRELATION_ID, names.ATTRIBUTE_PATH),
)
#: What users say. Each stands in one place of a request.
SAID: Final = {
    name: f"canary-{name}-{RUN}"
    for name in ("topic", "prompt", "argument", "memory", "query", "text", "judged", "body", "header", "instruction")
}
#: Asked for at the end; nothing is there.
LAST: Final = "/v1/the-last-of-the-canaries"
#: What proves identity, as it comes in from outside.
SENT: Final = {
    "wrong key": f"ck_01jxyzabcdefghjkmnpqrstvwx_{token_hex(32)}",
    "wrong token": f"eyJhbGciOiJFZERTQSJ9.{token_hex(20)}.{token_hex(20)}",
    "vault token": f"hvs.{token_hex(16)}",
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(collector: Receiver) -> Iterator[RunningMesh]:
    environment: dict[str, str] = {
        "COMITIA_VAULT_TOKEN": SENT["vault token"],
        "COMITIA_GATEWAY_OIDC_REACH_LOCAL": "everybody",
    }
    for service in SERVICES:
        environment[f"COMITIA_{service.upper()}_LOG_LEVEL"] = "debug"
        environment[f"COMITIA_{service.upper()}_OTLP_ENDPOINT"] = collector.url
    with running_mesh(environment=environment) as running:
        yield running


@dataclass
class Heard:
    """What callers were told, and what they hold."""

    texts: list[str] = field(default_factory=list[str])
    secrets: dict[str, str] = field(default_factory=dict[str, str])

    def refusal(self, work: Any) -> None:
        """Notes what a refusal says; what the caller sent may come back to it, what is ours may not."""
        try:
            work()
        except ComitiaError as error:
            self.texts.append(f"{error!r} {error} {error.metadata} {error.field}")
        else:
            raise AssertionError("not refused")

    def printed(self, done: subprocess.CompletedProcess[str]) -> None:
        self.texts.append(f"{done.stdout}{done.stderr}")

    def http(self, request: Request) -> None:
        try:
            with urlopen(request, timeout=20) as answer:
                answer.read()
        except HTTPError as error:
            self.texts.append(f"{error.headers} {error.read().decode(errors='replace')}")
            error.close()


def lead_through(mesh: RunningMesh) -> Heard:
    heard = Heard(secrets={"admin key": mesh.admin_key.rpartition("_")[2], "provider key": KEY})
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        heard.secrets["token"] = client.identity.token()
        made = client.identity.create_key("canary")
        heard.secrets["new key"] = made.secret.rpartition("_")[2]
        with Client(mesh.url, api_key=made.secret) as other:
            other.identity.whoami()
            heard.secrets["token of the new key"] = other.identity.token()
        client.identity.revoke_key(made.api_key.api_key_id)
        client.agents.create("Canary", instructions=f"Say {SAID['instruction']}.")
        session = client.sessions.start(SAID["topic"], agents=["Canary"], max_rounds=1)
        for _ in client.sessions.watch(session.session_id):
            pass
        memory = client.memories.remember(SAID["memory"])
        client.memories.recall(SAID["query"])
        client.memories.forget(memory.memory_id)
        client.tools.invoke("calculator", {"expression": "6 * 7"})
        client.tools.invoke("calculator", {"expression": SAID["argument"]})
        heard.refusal(lambda: client.tools.invoke("calculator", {SAID["argument"]: [SAID["argument"]]}))
        heard.refusal(lambda: client.sessions.start(SAID["topic"] * 2000, agents=["Canary"]))
        heard.refusal(lambda: client.sessions.start(SAID["topic"], agents=["Canary"], metadata={"k" * 80: "v"}))
    by_rest(mesh, heard)
    return heard


def sign_in(mesh: RunningMesh, provider: OidcProvider, folder: Path, heard: Heard) -> None:
    """A new tenant, a person who signs in there and is refused, and a sign-in that is renewed."""
    person, stranger = (f"{name}-{RUN}@example.com" for name in ("cana", "eve"))
    tenant = f"canaries-{RUN}"
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        admin_key = operator.tenants.create(tenant).admin_api_key
    heard.secrets["key of a new tenant"] = admin_key.rpartition("_")[2]
    with Client(mesh.url, api_key=admin_key) as admin:
        admin.users.add_issuer(provider.issuer, CLIENT_ID)
        admin.users.invite(person)
        shown = provider.sign_in(person)
        heard.secrets["ID token"] = shown.id_token
        heard.secrets["token for the ID token"] = admin.users.exchange(tenant, shown.id_token).access_token
        of_stranger = provider.sign_in(stranger).id_token
        heard.secrets["ID token of a stranger"] = of_stranger
        heard.refusal(lambda: admin.users.exchange(tenant, of_stranger))
        heard.refusal(lambda: admin.users.exchange(tenant, f"{shown.id_token[:-9]}AAAAAAAAA"))
    terminal = Terminal(mesh, folder)
    heard.printed(terminal("login", tenant, BROWSER=browser_of(person)))
    for change in ({"expires": 0}, {"expires": 0, "id_token": "a.e30.c"}):
        [(url, kept)] = json.loads(terminal.file.read_text()).items()
        for name in ("id_token", "access_token", "refresh_token"):
            heard.secrets[f"{name} of the command line, until {change}"] = kept[name]
        terminal.file.write_text(json.dumps({url: {**kept, **change}}))
        heard.printed(terminal("whoami"))
    [kept] = json.loads(terminal.file.read_text()).values()
    heard.secrets["renewed refresh token"] = kept["refresh_token"]
    heard.printed(terminal("logout"))


def exchange_proofs(mesh: RunningMesh, heard: Heard) -> None:
    """Proofs that are exchanged for others: a key for a rotated one, a grant for a token, the key of keys for a new."""
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        made = client.identity.create_key("to be rotated")
        heard.secrets["key to be rotated"] = made.secret.rpartition("_")[2]
        heard.secrets["rotated key"] = client.identity.rotate_key(made.api_key.api_key_id).secret.rpartition("_")[2]
        token, run_id = client.identity.token(), SystemIds().new("run")
    granted = asked_inside(mesh, "IdentityService/IssueGrant", token, {"run_id": run_id})
    grant = {"grant_id": granted.grant_id, "run_id": run_id}
    heard.secrets["token for a grant"] = asked_inside(mesh, "IdentityService/ExchangeGrant", token, grant).access_token
    for service in SERVICES:
        [(_, assertion)] = shown_by(mesh, service)
        heard.secrets[f"assertion of {service}"] = assertion
    wrong = {**grant, "run_id": SystemIds().new("run")}
    with pytest.raises(grpc.RpcError) as refused:
        asked_inside(mesh, "IdentityService/ExchangeGrant", token, wrong)
    heard.texts.append(f"{refused.value!r}")
    heard.secrets["old key of keys"] = (mesh.data_dir / "keys" / "kek").read_text().split()[1]
    heard.printed(mesh.comitia("kek", "rotate"))


def by_rest(mesh: RunningMesh, heard: Heard) -> None:
    """What the client would not send: broken bodies, wrong proofs; and a provider that repeats what it was told."""

    def ask(path: str, body: bytes | None, **headers: str) -> None:
        sent = {"content-type": "application/json", "x-api-key": mesh.admin_key, "x-canary": SAID["header"], **headers}
        heard.http(Request(mesh.url + path, data=body, headers=sent))

    prompt = json.dumps(
        {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": {"text": SAID["prompt"]}}]}], "model": "openai"}
    ).encode()
    ask("/v1/generate:stream", prompt)
    ask("/v1/generate", prompt)
    for status in (400, 401, 429, 500):
        echo = json.dumps({"error": {"message": f"{SAID['prompt']} for {KEY}", "type": SAID["prompt"], "code": KEY}})
        mesh.provider.behave(match=[SAID["prompt"]], status=status, raw=echo)
        for path in ("/v1/generate", "/v1/generate:stream"):
            ask(path, prompt)
    ask("/v1/sessions", f'{{"topic": "{SAID["body"]}", "agents": 7}}'.encode())
    ask("/v1/sessions", f'{{"topic": "{SAID["body"]}"'.encode())
    ask("/v1/sessions", SAID["body"].encode() + b"\xff\x00")
    ask("/v1/embed", json.dumps({"texts": [SAID["text"], ""]}).encode())
    judged = {"subject": {"operation": "OPERATION_GENERATE", "parts": [{"text": {"text": SAID["judged"]}}]}}
    ask("/v1/policies:evaluate", json.dumps(judged).encode())
    ask("/v1/whoami", None, **{"x-api-key": SENT["wrong key"]})
    ask("/v1/token", json.dumps({"api_key": SENT["wrong key"]}).encode())
    ask("/v1/whoami", None, **{"x-api-key": "", "authorization": f"Bearer {SENT['wrong token']}"})
    ask(f"/v1/memories?{SAID['query']}=1&api_key={SENT['wrong key']}&page_token={SAID['query']}", None)


def every_model_call(mesh: RunningMesh, heard: Heard) -> None:
    """The RPCs of models by gRPC, with a provider that repeats prompt and key in its refusals."""
    rpcs = {rpc.name: rpc for rpc in PUBLIC}
    part = {"text": {"text": SAID["prompt"]}}
    asked = {"messages": [{"role": "MESSAGE_ROLE_USER", "parts": [part]}]}
    requests = {
        "InferenceService/Generate": asked,
        "InferenceService/StreamGenerate": asked,
        "InferenceService/CountTokens": asked,
        "InferenceService/Embed": {"texts": [SAID["text"]]},
        "PolicyService/Evaluate": {
            "subject": {"operation": "OPERATION_GENERATE", "stage": "STAGE_BEFORE", "parts": [part]}
        },
        "ToolService/StreamInvokeTool": {"name": "calculator", "arguments": {"expression": SAID["argument"]}},
        "MemoryService/Remember": {"parts": [{"text": {"text": SAID["memory"]}}], "tags": ["x" * 99]},
    }
    metadata = (("authorization", f"Bearer {heard.secrets['token']}"), ("x-canary", SAID["header"]))
    with grpc.insecure_channel(mesh.target) as channel:
        for status in (0, 401, 500):
            if status:
                echo = json.dumps({"error": {"message": f"{SAID['prompt']} for {KEY}"}})
                mesh.provider.behave(match=[SAID["prompt"]], status=status, raw=echo)
            for name, fields in requests.items():
                rpc = rpcs[name]
                kind = channel.unary_stream if rpc.streams else channel.unary_unary
                call = kind(
                    rpc.path,
                    request_serializer=rpc.request_class.SerializeToString,
                    response_deserializer=rpc.response_class.FromString,
                )
                try:
                    answer: Any = call(rpc.message(fields), metadata=metadata, timeout=20)
                    for _ in answer if rpc.streams else ():
                        pass
                except grpc.RpcError as error:
                    heard.texts.append(f"{error!r} {error.trailing_metadata()}")  # type: ignore[attr-defined]


def secrets_of(mesh: RunningMesh) -> dict[str, str]:
    """Everything secret in the data directory, by what it is."""
    found = {
        f"secret {name}": value for name, value in json.loads((mesh.data_dir / "secrets.json").read_text()).items()
    }
    for line in (mesh.data_dir / "keys" / "kek").read_text().splitlines():
        found[f"kek {line.split()[0]}"] = line.split()[1]
    for path in (mesh.data_dir / "keys").rglob("*.jwk"):
        found[f"private key {path.name}"] = json.loads(path.read_text())["d"]
    return found


def outputs(mesh: RunningMesh, collector: Receiver, heard: Heard) -> Iterator[tuple[str, bytes]]:
    for path in sorted((mesh.data_dir / "logs").iterdir()):
        yield f"log of {path.name}", path.read_bytes()
    ports: dict[str, int] = json.loads((mesh.data_dir / "state.json").read_text())["ports"]
    for service in SERVICES:
        with urlopen(f"http://127.0.0.1:{ports[metrics_port_name(service)]}/metrics", timeout=10) as page:
            yield f"metrics of {service}", page.read()
    with urlopen(f"http://127.0.0.1:{ports['edge_admin']}/stats", timeout=10) as page:
        yield "statistics of the edge", page.read()
    yield "traces", b"".join(collector.sent)
    yield "refusals", "\n".join(heard.texts).encode()
    with Client(mesh.url, api_key=mesh.admin_key) as client, BytesIO() as trail:
        assert client.audit.save(trail), "nothing that was done reached the audit trail"
        yield "the audit trail", trail.getvalue()
    for command in (
        ("status", "-o", "json"),
        ("doctor",),
        ("whoami",),
        ("kek", "status"),
        ("key", "list"),
        ("audit", "list"),
        ("tenant", "list"),
    ):
        done = mesh.comitia(*command, check=None)
        yield f"comitia {' '.join(command)}", f"{done.stdout}{done.stderr}".encode()


@pytest.fixture(scope="module")
def heard(
    mesh: RunningMesh,
    collector: Receiver,
    provider: OidcProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Heard:
    heard = lead_through(mesh)
    sign_in(mesh, provider, tmp_path_factory.mktemp("settings"), heard)
    exchange_proofs(mesh, heard)
    every_model_call(mesh, heard)
    heard.http(Request(mesh.url + LAST))
    asyncio.run(_written(mesh, LAST))
    return heard


async def _written(mesh: RunningMesh, last: str) -> None:
    """Waits until the last request is in the edge's log, which is written every second; traces come sooner."""
    async with asyncio.timeout(30):
        while last.encode() not in (mesh.data_dir / "logs" / "edge.log").read_bytes():  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def test_the_outputs_are_there_and_no_canary_is_in_them(mesh: RunningMesh, collector: Receiver, heard: Heard) -> None:
    written = dict(outputs(mesh, collector, heard))
    assert len(collector.spans) > 50
    assert len(heard.texts) > 10
    assert SAID["prompt"] in json.dumps(mesh.provider.meter(containing=SAID["prompt"])), "no prompt got through"
    for service in SERVICES:
        assert b'"level":"debug"' in written[f"log of {service}.log"], f"{service} does not log at DEBUG"
    hidden = {
        **secrets_of(mesh),
        **heard.secrets,
        **SENT,
        **{f"what users say: {name}": text for name, text in SAID.items()},
    }
    leaks = [
        f"{what!r} in {where}: …{content[max(0, at - 120) : at + 40]!r}"
        for where, content in written.items()
        for what, text in hidden.items()
        # A caller is told what it sent itself; nobody else reads that.
        if not (where == "refusals" and (text in SAID.values() or text in SENT.values()))
        and (at := content.find(text.encode())) >= 0
    ]
    assert not leaks, "\n".join(leaks)
    assert not [what for what, text in hidden.items() if len(text) < 8], "too short to be found for what it is"
    assert b"api_keys.write" in written["the audit trail"]


@dataclass(frozen=True, kw_only=True)
class Two:
    """Two tenants that did the same at the same time, each with texts and names of its own."""

    whose: Whose
    #: By tenant, the text that it put into every field.
    texts: dict[str, str]
    #: Calls that each made.
    calls: int


@pytest.fixture(scope="module")
def two(mesh: RunningMesh, provider: OidcProvider, heard: Heard) -> Iterator[Two]:
    """Leads two tenants through every public RPC, as it is meant and with a text of theirs in each of its fields."""
    with ExitStack() as stack:
        worlds = {
            name: stack.enter_context(walked_tenant(mesh, provider, person=f"{name}@example.com"))
            for name in ("anna", "ben")
        }
        texts = {name: f"said{world.mark}" for name, world in worlds.items()}
        own = {name: world.client.tenants.own().tenant_id for name, world in worlds.items()}
        for name, world in worlds.items():
            world.operator.tenants.set_quotas(own[name], {"rate_factor": 1000})
            a_signed_size(world)  # once, not by several at a time: an export takes one of few seats
        ids, calls = asyncio.run(_walk(mesh, worlds, texts))
        for name, tenant_id in own.items():
            ids[name] |= ids_in(tenant_id.encode())
        heard.http(Request(f"{mesh.url}{LAST}-of-two"))
        asyncio.run(_written(mesh, f"{LAST}-of-two"))
        whose = Whose(ids=ids, marks={name: world.mark.encode() for name, world in worlds.items()})
        yield Two(whose=whose, texts=texts, calls=calls)


async def _walk(
    mesh: RunningMesh, worlds: Mapping[str, World], texts: Mapping[str, str]
) -> tuple[dict[str, set[bytes]], int]:
    """Makes the calls; gives the ids that each tenant sent or was told, and how many calls there were."""
    ids: dict[str, set[bytes]] = {name: set() for name in worlds}
    calls = 0

    async def ask(name: str, rpc: Rpc, request: Message) -> None:
        nonlocal calls
        answer = await doors.knock(EDGE, rpc, request, bearer(worlds[name].token))
        ids[name] |= ids_in(str(request).encode()) | ids_in(answer.body) | ids_in(answer.message.encode())
        calls += 1

    async def drive(name: str, rpc: Rpc) -> None:
        good = await asyncio.to_thread(lambda: rpc.message(REQUESTS[rpc.name](worlds[name])))
        await ask(name, rpc, good)
        for text_field in text_fields(rpc):
            await ask(name, rpc, text_field.put(good, texts[name]))

    async with open_doors(mesh) as doors:
        # Both at once, so that they meet in every batch, pool and cache.
        await at_once(8, (drive(name, rpc) for rpc in TENANTS_OWN for name in worlds))
    return ids, calls


def _log_groups(mesh: RunningMesh) -> dict[str, list[bytes]]:
    """Groups log lines by the call, session or trace that they say they belong to; each line is a group, too."""
    groups: defaultdict[str, list[bytes]] = defaultdict(list)
    for path in sorted((mesh.data_dir / "logs").iterdir()):
        for number, line in enumerate(path.read_bytes().splitlines()):
            groups[f"{path.name}:{number}"].append(line)
            try:
                told: Any = json.loads(line)
            except ValueError:
                continue
            for name in (names.LOG_CORRELATION_ID, names.LOG_TRACE_ID, names.LOG_INCIDENT_ID):
                if isinstance(told, dict) and (value := told.get(name)):
                    groups[f"{name} {value}"].append(line)
    return groups


def test_no_log_line_of_one_tenants_work_names_another(mesh: RunningMesh, two: Two) -> None:
    groups = _log_groups(mesh)
    named = [two.whose.named_in(line) for lines in groups.values() for line in lines]
    for name in two.texts:
        assert two.whose.counted(name) > 40
        assert sum(name in one for one in named) > 50, f"{name} is in no log: nothing was tested"
    assert len([name for name in groups if name.startswith(names.LOG_CORRELATION_ID)]) > two.calls
    assert not (wrong := two.whose.mixed(groups)), "\n".join(wrong)


def _spans(collector: Receiver) -> Iterator[trace_pb2.Span]:
    sent = [trace_service_pb2.ExportTraceServiceRequest.FromString(one) for one in collector.sent]
    for resource in (resource for request in sent for resource in request.resource_spans):
        for scoped in resource.scope_spans:
            yield from scoped.spans


def test_no_trace_of_one_tenants_work_names_another(collector: Receiver, two: Two) -> None:
    groups: defaultdict[str, list[bytes]] = defaultdict(list)
    for span in _spans(collector):
        groups[f"trace {span.trace_id.hex()}"].append(str(span).encode())
    named = [two.whose.named_in(span) for spans in groups.values() for span in spans]
    for name in two.texts:
        assert sum(name in one for one in named) > 10, f"{name} is in no trace: nothing was tested"
    assert not (wrong := two.whose.mixed(groups)), "\n".join(wrong)


def test_what_tenants_put_into_requests_is_in_no_output(mesh: RunningMesh, collector: Receiver, two: Two) -> None:
    """But for names that are meant to be read: of what a call was about in its trace, of few things in metrics."""
    written = dict(outputs(mesh, collector, Heard()))
    written["traces"] = "".join(map(_without_names, _spans(collector))).encode()
    found = [
        f"{name} in {where}: …{page[max(0, at - 200) : at + 60]!r}"
        for where, content in written.items()
        for page in [re.sub(rb'\b(tool|rule)="[^"]{0,63}"', b"", content)]
        for name, text in two.texts.items()
        if (at := page.find(text.encode())) >= 0
    ]
    assert not found, "\n".join(found)


def _without_names(span: trace_pb2.Span) -> str:
    kept = [attribute for attribute in span.attributes if attribute.key not in NAMES_IN_TRACES]
    del span.attributes[:]
    span.attributes.extend(kept)
    return str(span)


def test_what_users_say_is_not_readable_in_the_files_of_the_mesh(mesh: RunningMesh, heard: Heard) -> None:
    """Agents are configuration, not conversation; all else is sealed."""
    assert heard.secrets
    readable = [
        f"{name} in {path.relative_to(mesh.data_dir)}"
        for path in sorted(mesh.data_dir.rglob("*"))
        if path.is_file() and not path.is_symlink()
        for content in [_content(path)]
        for name, text in SAID.items()
        if name != "instruction" and text.encode() in content
    ]
    assert not readable, "\n".join(readable)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Postgres has taken it away meanwhile.
        return b""
