"""The secrets of a mesh, made once and kept in its data directory with mode 0600."""

import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, write_private
from services.launcher.mesh_databases import ROLES, MeshDatabases, prefix_from
from services.launcher.services import SERVICES
from services.meshkit.core.ids import SystemIds

_TOKEN_BYTES: Final = 32
#: Beside the passwords of the roles: whose databases they are, which is no secret.
_INSTALLATION: Final = "installation"
_OF_ROLES: Final = tuple(f"{service}/{role}" for service in SERVICES for role in ROLES)
#: Names in `secrets.json` of all that databases need.
OF_DATABASES: Final = (*_OF_ROLES, _INSTALLATION)


class SecretsUnwritable(LauncherError):
    """A secret is missing, and the file cannot be written."""


def ensure_keys(data: DataDir) -> None:
    """Makes what is missing and leaves what exists."""
    if not data.kek.exists():
        from services.meshkit.crypto.kek_file import create_kek_file

        create_kek_file(data.kek)
    if not data.bootstrap_key.exists():
        # The public part is a TypeID without its prefix. Hex, because `_` ends it and the secret must not hold one.
        key_id = SystemIds().new("key").rpartition("_")[2]
        write_private(data.bootstrap_key, f"ck_{key_id}_{secrets.token_hex(_TOKEN_BYTES)}\n".encode())
    if not (data.signing_key.exists() and data.jwks.exists()):
        kid = f"mesh-{secrets.token_hex(4)}"
        _write_pairs({kid: data.signing_key}, data.jwks)
    if not (data.audit_key.exists() and data.audit_jwks.exists()):
        _write_pairs({f"audit-{secrets.token_hex(4)}": data.audit_key}, data.audit_jwks)
    workload = {service: data.workload_key(service) for service in SERVICES}
    if not (data.workload_jwks.exists() and all(path.exists() for path in workload.values())):
        _write_pairs(workload, data.workload_jwks)


def key_files(service: str, data: DataDir) -> dict[str, Path]:
    """Gives the private keys of a service, by the names under which its container or pod finds them."""
    own = {"workload.jwk": data.workload_key(service), "kek": data.kek}
    if service == "gateway":
        own |= {
            "signing.jwk": data.signing_key,
            "audit.jwk": data.audit_key,
            "audit_jwks.json": data.audit_jwks,
            "admin.key": data.bootstrap_key,
        }
    return own


def read_secrets(data: DataDir, names: Iterable[str]) -> dict[str, str]:
    """Gives the secrets of these names (`postgres`, `nats`, `tools/app`, …), making them at the first question.

    Raises: LauncherError: the file is damaged; SecretsUnwritable.
    Concurrency: for the holder of the data directory; two writers would lose each other's secrets.
    """
    known = _known_secrets(data.secrets)
    wanted = tuple(names)
    missing = [name for name in wanted if name not in known]
    if missing:
        known.update({name: secrets.token_hex(_TOKEN_BYTES) for name in missing})
        try:
            write_private(data.secrets, json.dumps(known, indent=1).encode())
        except OSError as cause:
            raise SecretsUnwritable(
                f"{data.secrets} lacks {missing[0]} and cannot be written ({cause.strerror})"
            ) from cause
    return {name: known[name] for name in wanted}


def find_databases(data: DataDir, admin_url: str, environment: Mapping[str, str]) -> MeshDatabases:
    """Says which databases of a server are those of a mesh.

    Whoever brings the secrets himself, for reading only, as the releases before made them, need not say whose they are.

    Raises: LauncherError: as `read_secrets` and `prefix_from`.
    """
    prefix = prefix_from(environment)
    try:
        passwords = read_secrets(data, OF_DATABASES)
    except SecretsUnwritable:
        passwords = read_secrets(data, _OF_ROLES)
    installation = passwords.pop(_INSTALLATION, None)
    return MeshDatabases(admin_url=admin_url, passwords=passwords, installation=installation, prefix=prefix)


def _known_secrets(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as cause:
        raise LauncherError(
            f"{path} is damaged; put a copy of it back, for the databases know its passwords"
        ) from cause


def _write_pairs(private: dict[str, Path], public: Path) -> None:
    """Makes one Ed25519 pair per key id; private keys as JWK, each in its file, public ones together as a key set."""
    from services.meshkit.grpc.signed_token import SigningKey, key_set  # 200 ms that only the first start pays

    keys = {kid: SigningKey.generate(kid) for kid in private}
    for kid, path in private.items():
        keys[kid].write(path)
    write_private(public, key_set(keys.values()))
