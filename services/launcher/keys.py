"""The secrets of a mesh, made once and kept in its data directory with mode 0600."""

import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from services.launcher.environment import ROLES
from services.launcher.layout import DataDir, write_private
from services.launcher.services import SERVICES

_TOKEN_BYTES: Final = 32


def ensure_keys(data: DataDir, key_id: str) -> None:
    """Makes what is missing and leaves what exists.

    Args:
        key_id: public part of the administrator's API key, 26 characters of base32 (a TypeID without its prefix).
    """
    if not data.kek.exists():
        from services.meshkit.crypto.kek_file import create_kek_file

        create_kek_file(data.kek)
    if not data.bootstrap_key.exists():
        # Hex, because `_` ends the id and the secret must not hold one.
        write_private(data.bootstrap_key, f"ck_{key_id}_{secrets.token_hex(_TOKEN_BYTES)}\n".encode())
    if not (data.signing_key.exists() and data.jwks.exists()):
        kid = f"mesh-{secrets.token_hex(4)}"
        _write_pairs({kid: data.signing_key}, data.jwks)
    if not (data.audit_key.exists() and data.audit_jwks.exists()):
        _write_pairs({f"audit-{secrets.token_hex(4)}": data.audit_key}, data.audit_jwks)
    workload = {service: data.workload_key(service) for service in SERVICES}
    if not (data.workload_jwks.exists() and all(path.exists() for path in workload.values())):
        _write_pairs(workload, data.workload_jwks)


def read_secrets(data: DataDir, names: Iterable[str]) -> dict[str, str]:
    """Gives the secrets of these names (`postgres`, `nats`, `tools/app`, …), making them at the first question.

    Concurrency: for the holder of the data directory; two writers would lose each other's secrets.
    """
    known: dict[str, str] = json.loads(data.secrets.read_bytes()) if data.secrets.exists() else {}
    wanted = tuple(names)
    missing = [name for name in wanted if name not in known]
    if missing:
        known.update({name: secrets.token_hex(_TOKEN_BYTES) for name in missing})
        write_private(data.secrets, json.dumps(known, indent=1).encode())
    return {name: known[name] for name in wanted}


def role_passwords(data: DataDir) -> dict[str, str]:
    """Gives the password of every database role by `<service>/<role>`."""
    return read_secrets(data, [f"{service}/{role}" for service in SERVICES for role in ROLES])


def _write_pairs(private: dict[str, Path], public: Path) -> None:
    """Makes one Ed25519 pair per key id; private keys as JWK, each in its file, public ones together as a key set."""
    from services.meshkit.grpc.signed_token import SigningKey, key_set  # 200 ms that only the first start pays

    keys = {kid: SigningKey.generate(kid) for kid in private}
    for kid, path in private.items():
        keys[kid].write(path)
    write_private(public, key_set(keys.values()))
