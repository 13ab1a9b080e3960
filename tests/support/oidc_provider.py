"""A real OpenID Connect provider beside the tests: the package `oidc-provider`, run by Node."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from joserfc.jwk import ECKey, Key, KeyParameters, OKPKey, RSAKey

from comitia_sdk.login import browser
from comitia_sdk.login.provider import ProviderTokens, discover
from tests.support.node import installed, node_environment, node_folder
from tests.support.oidc_browser import Person

SOURCE: Final = Path(__file__).parent / "oidc"
CLIENT_ID: Final = "comitia"
_KEY_SET: Final = "/jwks"
_DISCOVERY: Final = "/.well-known/openid-configuration"


class OidcProvider:
    """A provider that can be stopped, started again at the same address, and given other keys."""

    def __init__(self, folder: Path, *, algorithm: str = "RS256", settings: dict[str, str] | None = None) -> None:
        self._program = installed(SOURCE)
        self._keys_path = folder / "keys.json"
        self._algorithm = algorithm
        self._settings = settings or {}
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._serial = 0
        self.keys: list[Key] = []
        #: Paths that were asked for, in order.
        self.asked: list[str] = []
        self.issuer = ""
        self.rotate()

    @property
    def key_set_fetches(self) -> int:
        """How often its keys were fetched."""
        return self.asked.count(_KEY_SET)

    @property
    def discoveries(self) -> int:
        """How often its discovery document was fetched."""
        return self.asked.count(_DISCOVERY)

    def rotate(self, *, keep: bool = False) -> None:
        """Makes a new key; the next start signs with it. The keys before it are published on when they are kept."""
        self._serial += 1
        kid = f"key-{self._serial}"
        parameters: KeyParameters = {"kid": kid, "use": "sig", "alg": self._algorithm}
        made: Key
        if self._algorithm == "ES256":
            made = ECKey.generate_key("P-256", parameters)
        elif self._algorithm == "EdDSA":
            made = OKPKey.generate_key("Ed25519", parameters)
        else:
            made = RSAKey.generate_key(2048, parameters)
        self.keys = [made, *(self.keys if keep else [])]
        self._keys_path.write_text(json.dumps({"keys": [key.as_dict(private=True) for key in self.keys]}))

    def start(self) -> None:
        """Starts it, at its old address if it had one."""
        node = node_folder()
        assert node is not None
        self._process = subprocess.Popen(
            [node / "node", "provider.mjs", str(self._port), self._keys_path],
            cwd=self._program,
            env={**node_environment(node), **self._settings, "OIDC_ALGORITHM": self._algorithm},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        output = self._process.stdout
        assert output is not None
        self.issuer = output.readline().strip()
        assert self.issuer, "the provider does not start"
        self._port = int(self.issuer.rpartition(":")[2])

        def read() -> None:
            self.asked.extend(line.strip() for line in output)
            output.close()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Stops it."""
        if self._process is not None and self._reader is not None:
            self._process.terminate()
            self._process.wait(10)
            self._reader.join(10)
            self._process = None

    def sign_in(self, email: str) -> ProviderTokens:
        """Signs a person in as the command line does: in the browser, with PKCE."""
        return browser.sign_in(discover(self.issuer), CLIENT_ID, show=_Opens(email), seconds=20)


class _Opens:
    """Opens a page in the browser of a person who then signs in."""

    def __init__(self, email: str) -> None:
        self._email = email

    def __call__(self, page: str) -> None:
        threading.Thread(target=Person(self._email).sign_in, args=(page,), daemon=True).start()


@contextmanager
def running_oidc_provider(
    folder: Path, *, algorithm: str = "RS256", settings: dict[str, str] | None = None
) -> Iterator[OidcProvider]:
    """Runs a provider while the block runs.

    Args:
        settings: of `provider.mjs`, such as `OIDC_ID_TOKEN_SECONDS`.
    """
    provider = OidcProvider(folder, algorithm=algorithm, settings=settings)
    provider.start()
    try:
        yield provider
    finally:
        provider.stop()
