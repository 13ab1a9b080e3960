"""The chart: the names and types of settings in its schema, and its README, made from what they describe.

python -m tests.support.chart [--check]      what `make charts` and `make lint` run
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from services.launcher.services import SERVICES
from services.meshkit.settings import ServiceSettings

CHART: Final = Path(__file__).parents[2] / "helm" / "comitia"
_SCHEMA: Final = CHART / "values.schema.json"
_README: Final = CHART / "README.md"
#: What the chart itself sets, so that nobody says it twice.
SET_BY_CHART: Final = frozenset(
    "listen metrics_listen doors_listen database_url maintenance_database_url nats_url jwks_path jwks_from_gateway"
    " workload_key_path workload_jwks_path tls_cert_path tls_key_path tls_ca_path east_west_target kek_path guard_path"
    " log_level notice_seconds drain_seconds edge_networks otlp_endpoint signing_key_path bootstrap_key_path"
    " audit_key_path audit_jwks_path audit_store replica peer_address object_store registry_path data_dir milvus_url"
    " failpoints descriptors_path openapi_path".split()
) | {f"{service}_target" for service in SERVICES}
_HEAD: Final = """# The chart of Comitia

Made by `make charts` from `values.yaml`. [docs/kubernetes.md](../../docs/kubernetes.md) says how to install, what is
checked before, and what to do when.

Settings of services (`services.<name>.settings`) have the names of their `settings.py` in small letters;
`values.schema.json` lists them with types and bounds, and refuses others. Those that are secret go to
`services.<name>.secretSettings`, as the name of a Secret and a key in it.

Postgres, NATS and Milvus are templates of this chart, for one replica each, behind `postgres.enabled`, `nats.enabled`
and `milvus.enabled`; servers of yours are named under `external`.

| value | default | what it does |
|---|---|---|
"""


def settings_of(service: str) -> type[ServiceSettings]:
    """Gives the class that a service reads its environment with."""
    return getattr(import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")


def schema() -> dict[str, Any]:
    """Gives the schema of the values with the settings of the services as their code has them."""
    whole = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    for service in SERVICES:
        fields = settings_of(service).model_fields
        secret = sorted(name for name, field in fields.items() if _is_secret(field) and name not in SET_BY_CHART)
        whole["$defs"][f"{service}Settings"] = _settings_schema(service)
        whole["$defs"][f"{service}SecretSettings"] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"$ref": "#/$defs/secretKey"} for name in secret},
        }
    return whole


def _settings_schema(service: str) -> dict[str, Any]:
    kind = settings_of(service)
    made = kind.model_json_schema(by_alias=False)
    properties: dict[str, Any] = {}
    for name, field in sorted(kind.model_fields.items()):
        if name in SET_BY_CHART or _is_secret(field):
            continue
        # What is no JSON in the environment is written there as text.
        plain = any(isinstance(one, type(NoDecode)) or one is NoDecode for one in field.metadata)
        properties[name] = {"type": "string"} if plain else _inline(made["properties"][name], made.get("$defs", {}))
        properties[name]["description"] = field.description
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Puts definitions where they are named, and leaves out what says nothing of a value."""
    if isinstance(schema, list):
        return [_inline(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kept = {key: value for key, value in schema.items() if key not in ("title", "default", "format", "description")}
    if "properties" in kept:
        kept["properties"] = {name: _inline(one, definitions) for name, one in kept["properties"].items()}
        return kept
    return {key: _inline(value, definitions) for key, value in kept.items()}


def _is_secret(field: FieldInfo) -> bool:
    parts = (field.annotation, *get_args(field.annotation))
    return any(part is SecretStr or SecretStr in get_args(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart, as values.yaml describes it."""

    path: str
    default: str
    sentence: str


def described() -> Iterator[Value]:
    """Reads values.yaml: each comment is of the key below it. A key without comment is part of the one above."""
    path: list[str] = []
    sentence: list[str] = []
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            sentence.append(text.lstrip("# "))
            continue
        if not text or ":" not in text or text.startswith("-"):
            sentence.clear()
            continue
        key, _, value = text.partition(":")
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [key]
        if sentence:
            yield Value(".".join(path), value.strip(), " ".join(sentence))
        sentence.clear()


def readme() -> str:
    """Writes the page of the chart."""
    rows = [f"| `{one.path}` | {f'`{one.default}`' if one.default else ''} | {one.sentence} |" for one in described()]
    return _HEAD + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Writes what is made, or only says whether it is current; gives the exit code."""
    made = {_SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", _README: readme()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if stale and "--check" in arguments:
        names = ", ".join(str(path.relative_to(CHART.parents[1])) for path in stale)
        sys.stderr.write(f"not current: {names}. Run `make charts`, and look at what changed.\n")
        return 1
    for path in stale:
        path.write_text(made[path], encoding="utf-8")
        sys.stdout.write(f"wrote: {path.relative_to(CHART.parents[1])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
