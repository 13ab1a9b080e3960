"""Makes the keys and passwords of a mesh on Kubernetes, as Secrets, where they are missing.

    python -m services.launcher.cluster_keys <name> --namespace <namespace>     inside the cluster, as the chart does
    python -m services.launcher.cluster_keys <name> --print                     for whoever brings Secrets otherwise

They are those that `comitia up` keeps in its data directory, made by the same code: what is there is put into such a
directory, what is missing is made, and what is new is written back.
"""

import argparse
import base64
import json
import os
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from services.launcher.errors import LauncherError
from services.launcher.keys import OF_DATABASES, ensure_keys, key_files, read_secrets
from services.launcher.layout import DataDir, find_data_dir, prepare, write_private
from services.launcher.services import SERVICES

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS: Final = 10.0
#: Passwords in `secrets.json` beside those of the roles of databases.
_SERVERS: Final = ("postgres", "nats")


class SecretStore(Protocol):
    """The Secrets of one namespace. Values are bytes by key."""

    def read(self, name: str) -> dict[str, bytes] | None:
        """Gives a Secret, None where there is none."""
        ...

    def write(self, name: str, content: Mapping[str, bytes]) -> None:
        """Makes or replaces a Secret. Raises: LauncherError: it has changed since it was read, or is not ours."""
        ...


def main(arguments: list[str] | None = None) -> int:
    """Runs from the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.launcher.cluster_keys", description=__doc__)
    parser.add_argument("name", help="what names of the release begin with, such as comitia")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--print", action="store_true", help="make all Secrets and print them as one list")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="where to work; default: COMITIA_DATA_DIR, else ~/.comitia, and with --print a folder that goes again",
    )
    chosen = parser.parse_args(arguments)
    try:
        if chosen.print:
            _print(chosen.name, chosen.namespace, chosen.data_dir)
        else:
            prepare(data := find_data_dir(chosen.data_dir, os.environ))
            for made in make_missing(chosen.name, data, ClusterSecrets.from_inside(chosen.namespace)):
                print(f"wrote {made}")
    except LauncherError as failure:
        print(failure.sentence, file=sys.stderr)
        return 1
    return 0


def _print(name: str, namespace: str, folder: Path | None) -> None:
    printed = PrintedSecrets(namespace)
    # Not where the mesh of this machine keeps its own: a cluster would run by the same keys.
    with tempfile.TemporaryDirectory() as passing:
        data = DataDir(folder or Path(passing))
        prepare(data)
        make_missing(name, data, printed)
    print(json.dumps(printed.manifests(), indent=1))


def make_missing(name: str, data: DataDir, store: SecretStore) -> list[str]:
    """Makes what is missing and gives the names of the Secrets that were written.

    Args:
        data: an empty data directory; it holds all secrets afterwards.
    Raises: LauncherError: the Secrets contradict each other, or cannot be written.
    """
    present = {secret: store.read(secret) for secret in (*_files(name, data), *_servers(name))}
    for secret, files in _files(name, data).items():
        for key, path in files.items():
            content = (present[secret] or {}).get(key)
            if content is None:
                continue
            if path.exists() and path.read_bytes() != content:
                # Above all the key that wraps data keys: whichever were dropped might be the one that data needs.
                raise LauncherError(f"{key} in the Secret {secret} is not that of the other services; make them equal")
            write_private(path, content, durable=False)
    ensure_keys(data)
    passwords = read_secrets(data, [*OF_DATABASES, *_SERVERS])
    wanted = _wanted(name, data, passwords)
    changed = [secret for secret in wanted if wanted[secret] != present[secret]]
    for secret in changed:
        store.write(secret, wanted[secret])
    return changed


def _files(name: str, data: DataDir) -> dict[str, dict[str, Path]]:
    """Gives the files of the data directory that lie in Secrets, by Secret and key."""
    secrets = {f"{name}-{service}-keys": key_files(service, data) for service in SERVICES}
    secrets[f"{name}-public-keys"] = {"jwks.json": data.jwks, "workload_jwks.json": data.workload_jwks}
    secrets[f"{name}-database-keys"] = {"secrets.json": data.secrets}
    return secrets


def _servers(name: str) -> tuple[str, ...]:
    return tuple(f"{name}-{server}-keys" for server in _SERVERS)


def _wanted(name: str, data: DataDir, passwords: Mapping[str, str]) -> dict[str, dict[str, bytes]]:
    wanted = {
        secret: {key: path.read_bytes() for key, path in files.items()} for secret, files in _files(name, data).items()
    }
    # Variables take it whole, and a header ends where a line does.
    wanted[f"{name}-gateway-keys"]["admin.key"] = data.bootstrap_key.read_bytes().strip()
    for service in SERVICES:
        for role in ("app", "maintenance"):
            wanted[f"{name}-{service}-keys"][f"{role}-password"] = passwords[f"{service}/{role}"].encode()
    token = passwords["nats"]
    wanted[f"{name}-postgres-keys"] = {"password": passwords["postgres"].encode()}
    wanted[f"{name}-nats-keys"] = {"token": token.encode(), "url": f"nats://{token}@{name}-nats:4222".encode()}
    return wanted


class PrintedSecrets:
    """Collects Secrets as manifests. Implements `SecretStore`; holds nothing at first."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._written: list[dict[str, Any]] = []

    def read(self, name: str) -> dict[str, bytes] | None:
        """See `SecretStore`."""
        del name

    def write(self, name: str, content: Mapping[str, bytes]) -> None:
        """See `SecretStore`."""
        self._written.append(_manifest(self._namespace, name, content))

    def manifests(self) -> dict[str, Any]:
        """Gives them as one list, for `kubectl apply -f -`."""
        return {"apiVersion": "v1", "kind": "List", "items": self._written}


class ClusterSecrets:
    """Secrets behind the API of Kubernetes. Implements `SecretStore`."""

    def __init__(self, api: str, namespace: str, *, token: str, tls: ssl.SSLContext | None) -> None:
        """Says where they are.

        Args:
            api: address of the API, such as `https://10.0.0.1:443`.
        """
        self._secrets = f"{api}/api/v1/namespaces/{namespace}/secrets"
        self._namespace = namespace
        self._token = token
        self._tls = tls
        self._versions: dict[str, str] = {}

    @classmethod
    def from_inside(cls, namespace: str) -> "ClusterSecrets":
        """Finds the API as every pod with an account does. Raises: LauncherError: this is none."""
        try:
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            token = (_ACCOUNT / "token").read_text()
            tls = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
        except (KeyError, OSError) as cause:
            raise LauncherError("this is no pod with an account of Kubernetes; use --print elsewhere") from cause
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", namespace, token=token, tls=tls)

    def read(self, name: str) -> dict[str, bytes] | None:
        """See `SecretStore`."""
        found = self._ask("GET", name)
        if found is None:
            return None
        self._versions[name] = found["metadata"]["resourceVersion"]
        data: dict[str, str] = found.get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    def write(self, name: str, content: Mapping[str, bytes]) -> None:
        """See `SecretStore`."""
        manifest = _manifest(self._namespace, name, content)
        if name in self._versions:
            # Whoever changed it meanwhile is not overwritten; the job begins again.
            manifest["metadata"]["resourceVersion"] = self._versions[name]
            self._ask("PUT", name, manifest)
        else:
            self._ask("POST", "", manifest)

    def _ask(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        request = urllib.request.Request(  # noqa: S310  # the address is the cluster's own
            f"{self._secrets}/{name}".rstrip("/"),
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self._token}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=self._tls) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "GET":
                return None
            said = error.read(500).decode(errors="replace")
            raise LauncherError(f"Kubernetes refuses to {method} the Secret {name}: {error.code} {said}") from error
        except OSError as error:
            raise LauncherError(f"the API of Kubernetes does not answer: {error}") from error


def _manifest(namespace: str, name: str, content: Mapping[str, bytes]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "comitia", "app.kubernetes.io/managed-by": "comitia"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in sorted(content.items())},
    }


if __name__ == "__main__":
    sys.exit(main())
