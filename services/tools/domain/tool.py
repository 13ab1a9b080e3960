"""A tool: one immutable version of a definition."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import rfc8785

from services.meshkit.content import Integrity, Label
from services.meshkit.core.errors import Invalid
from services.meshkit.core.hosts import checked_hosts
from services.meshkit.core.money import NanoUsd
from services.tools.domain.errors import ToolArgumentsWrong, ToolNotAllowed
from services.tools.domain.reference import check_name, parse_version
from services.tools.domain.schema import Schema, compile_schema
from services.tools.domain.url_template import UrlTemplate

ANY_AGENT: Final = "*"
DEFAULT_VERSION: Final = "1.0.0"
DEFAULT_RATE_PER_MINUTE: Final = 60
DEFAULT_TIMEOUT_SECONDS: Final = 10
DEFAULT_RESPONSE_BYTES: Final = 65_536
MAX_RESPONSE_BYTES: Final = 262_144
MAX_ARGUMENT_BYTES: Final = 64 * 1024
_MAX_DESCRIPTION: Final = 1_000
_MAX_RATE: Final = 1_000_000
#: Dearest call, a million USD: what the ledger takes at most.
_MAX_COST: Final = 10**15
_MAX_AGENTS: Final = 64
_MAX_AGENT_NAME: Final = 64
_MAX_TIMEOUT_SECONDS: Final = 60
_MAX_CACHE_SECONDS: Final = 86_400

_FREE: Final = NanoUsd(0)

CALCULATOR: Final = "calculator"
HTTP_GET: Final = "http_get"
BUILTINS: Final = frozenset({CALCULATOR, HTTP_GET})


class Mode(StrEnum):
    """What stands behind a tool."""

    BUILTIN = "builtin"
    HTTP_GET = "http_get"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGetSettings:
    """What an HTTP GET tool may reach."""

    #: With `{argument}` places; empty for the built-in, which takes `url`.
    url_template: str = ""
    allowed_hosts: tuple[str, ...] = ()
    max_response_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One version of a tool. Its digest never changes."""

    name: str
    version: str = ""
    description: str
    #: JSON Schema, open by nature.
    input_schema: Mapping[str, object]
    output_schema: Mapping[str, object] | None = None
    mode: Mode
    builtin: str = ""
    http_get: HttpGetSettings | None = None
    auth_reference: str = ""
    rate_limit_per_minute: int = 0
    cost: NanoUsd = _FREE
    allowed_agents: tuple[str, ...] = ()
    timeout_seconds: int = 0
    cache_ttl_seconds: int = 0
    #: `tool_…`; empty until it is stored.
    id: str = ""
    create_time: datetime | None = None

    @property
    def reference(self) -> str:
        """The version as it is named: `name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical definition."""
        return sha256(self.canonical).digest()

    @property
    def canonical(self) -> bytes:
        """The definition as canonical JSON (RFC 8785): equal definitions have equal bytes."""
        http = self.http_get
        definition: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "input_schema": self.input_schema,
            "output_schema": self.output_schema,
            "mode": self.mode.value,
            "builtin": self.builtin,
            "http_get": None
            if http is None
            else {
                "url_template": http.url_template,
                "allowed_hosts": list(http.allowed_hosts),
                "max_response_bytes": http.max_response_bytes,
            },
            "auth_reference": self.auth_reference,
            "rate_limit_per_minute": self.rate_limit_per_minute,
            # As text: an amount may be larger than what JSON's numbers hold exactly.
            "cost_nano_usd": str(self.cost),
            "allowed_agents": list(self.allowed_agents),
            "timeout_seconds": self.timeout_seconds,
            "cache_ttl_seconds": self.cache_ttl_seconds,
        }
        return rfc8785.dumps(definition)

    @property
    def reads_outside(self) -> bool:
        """True when its results come from outside the mesh, and so can be trusted by nobody."""
        return self.mode is Mode.HTTP_GET or self.builtin == HTTP_GET

    def label(self, choice: Label) -> Label:
        """Gives the label of a result of a call that was chosen under `choice`; never below it."""
        if not self.reads_outside:
            return choice
        return choice.joined(Label(integrity=Integrity.UNTRUSTED, sources=frozenset({f"tool:{self.name}"})))

    def allow(self, agent: str) -> None:
        """Raises ToolNotAllowed unless this agent may call it."""
        if not self.allows(agent):
            raise ToolNotAllowed(self.reference, agent=agent)

    def allows(self, agent: str) -> bool:
        """Tells whether this agent may call it."""
        return ANY_AGENT in self.allowed_agents or agent in self.allowed_agents

    def check_arguments(self, arguments: Mapping[str, object], schema: Schema) -> None:
        """Raises ToolArgumentsWrong, naming the argument, unless they are what the input schema asks for."""
        size = len(rfc8785.dumps(_json(arguments)))
        if size > MAX_ARGUMENT_BYTES:
            sentence = f"must have at most {MAX_ARGUMENT_BYTES} bytes as JSON, has {size}"
            raise ToolArgumentsWrong("arguments", sentence, tool=self.reference)
        problem = schema.problem(arguments)
        if problem is not None:
            path, sentence = problem
            raise ToolArgumentsWrong(f"arguments{path}", sentence, tool=self.reference)

    def checked(self) -> "Tool":
        """Gives the definition with its defaults written out, if it is one that can be called.

        Raises: Invalid or SchemaInvalid, naming the field under `tool`.
        """
        full = self._with_defaults()
        check_name(full.name, field="tool.name")
        parse_version(full.version, field="tool.version")
        if not full.description.strip() or len(full.description) > _MAX_DESCRIPTION or "\x00" in full.description:
            raise Invalid("tool.description", f"must be 1 to {_MAX_DESCRIPTION} characters, not only white space")
        compile_schema(full.input_schema, field="tool.input_schema", object_only=True)
        if full.output_schema is not None:
            compile_schema(full.output_schema, field="tool.output_schema", object_only=False)
        if full.auth_reference:
            raise Invalid("tool.auth_reference", "must be empty: this mesh keeps no secrets for tools")
        _between("tool.rate_limit_per_minute", full.rate_limit_per_minute, 1, _MAX_RATE)
        _between("tool.cost_nano_usd", full.cost, 0, _MAX_COST)
        _between("tool.timeout_seconds", full.timeout_seconds, 1, _MAX_TIMEOUT_SECONDS)
        _between("tool.cache_ttl_seconds", full.cache_ttl_seconds, 0, _MAX_CACHE_SECONDS)
        full._check_agents()
        return full._with_checked_mode()

    def _with_defaults(self) -> "Tool":
        return replace(
            self,
            version=self.version or DEFAULT_VERSION,
            rate_limit_per_minute=self.rate_limit_per_minute or DEFAULT_RATE_PER_MINUTE,
            allowed_agents=tuple(sorted(set(self.allowed_agents))) or (ANY_AGENT,),
            timeout_seconds=self.timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
        )

    def _check_agents(self) -> None:
        if len(self.allowed_agents) > _MAX_AGENTS:
            raise Invalid("tool.allowed_agents", f"must name at most {_MAX_AGENTS} agents, or be `*`")
        for index, agent in enumerate(self.allowed_agents):
            if not 1 <= len(agent) <= _MAX_AGENT_NAME or "\x00" in agent:
                raise Invalid(
                    f"tool.allowed_agents[{index}]", f"must be an agent's name of 1 to {_MAX_AGENT_NAME} characters"
                )

    def _with_checked_mode(self) -> "Tool":
        if self.mode is Mode.BUILTIN:
            if self.builtin not in BUILTINS:
                raise Invalid("tool.builtin", f"must be one of {', '.join(sorted(BUILTINS))}")
            if self.builtin != HTTP_GET:
                if self.http_get is not None:
                    raise Invalid("tool.http_get", "is only for HTTP_GET and the built-in `http_get`")
                return self
        elif self.builtin:
            raise Invalid("tool.builtin", "is only for BUILTIN")
        return replace(self, http_get=self._checked_http(self.http_get or HttpGetSettings()))

    def _checked_http(self, http: HttpGetSettings) -> HttpGetSettings:
        hosts = checked_hosts(http.allowed_hosts, field="tool.http_get.allowed_hosts")
        size = http.max_response_bytes or DEFAULT_RESPONSE_BYTES
        _between("tool.http_get.max_response_bytes", size, 1, MAX_RESPONSE_BYTES)
        if self.mode is Mode.HTTP_GET:
            UrlTemplate.parse(http.url_template).check(self.input_schema, hosts)
        elif http.url_template:
            raise Invalid("tool.http_get.url_template", "must be empty for the built-in, which takes `url`")
        return replace(http, allowed_hosts=hosts, max_response_bytes=size)


def _between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise Invalid(field, f"must be {low} to {high}, is {value}")


def _json(value: Mapping[str, object]) -> Any:
    return dict(value)
