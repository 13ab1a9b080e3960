"""Chooses what wraps the data keys: a file, Vault's transit engine, or a plug-in.

What another provider wrapped before still opens as long as that one is configured, so that moving from the file to a
key service is a rotation like any other. A file's wrappings begin with 1; all others with 2, the length of the
provider's name, and the name.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from typing import Final, Protocol, cast

import msgspec

from services.meshkit.core.clock import Clock
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.bounded import BoundedWrapper
from services.meshkit.crypto.errors import KeyServiceSettings, SealBroken
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.settings import ServiceSettings

#: Entry points of this group are plug-ins: a name for `kek_provider`, and a `KeyWrapperFactory`.
PLUG_INS: Final = "comitia.key_wrappers"
FILE: Final = "file"
VAULT: Final = "vault"
_NAMED: Final = 2
_MAX_NAME: Final = 64


class KeyWrapperFactory(Protocol):
    """What a plug-in offers: opens its wrapper with the options of the setting `kek_options`.

    The wrapper raises errors of `services.meshkit.crypto.errors`; it is called with a time limit of two seconds.
    """

    def __call__(self, options: Mapping[str, str]) -> AbstractAsyncContextManager[KeyWrapper]:
        """Opens the wrapper; leaving the block closes it."""
        ...


class NamedWrapper:
    """Wraps with one provider and opens what any of the configured ones wrapped. A `KeyWrapper`."""

    def __init__(self, current: str, wrappers: Mapping[str, KeyWrapper]) -> None:
        self._current = current
        self._wrappers = wrappers

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.wrap`."""
        return _head(self._current) + await self._wrappers[self._current].wrap(key, context=context)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.unwrap`."""
        name, body = _split(wrapped)
        wrapper = self._wrappers.get(name)
        if wrapper is None:
            raise SealBroken(f"a data key was wrapped by {name!r}, which this service is not configured for")
        return await wrapper.unwrap(body, context=context)

    async def mark(self) -> bytes:
        """See `KeyWrapper.mark`."""
        return _head(self._current) + await self._wrappers[self._current].mark()


@asynccontextmanager
async def key_wrapper(settings: ServiceSettings, *, clock: Clock) -> AsyncGenerator[KeyWrapper]:
    """Opens what the settings name. A key service that is away now does not keep us from starting.

    Raises: KekFileUnsafe; KeyServiceSettings: the provider is unknown, or a setting of it is missing or wrong.
    """
    async with AsyncExitStack() as stack:
        wrappers: dict[str, KeyWrapper] = {}
        if settings.kek_path is not None:
            wrappers[FILE] = await KekFile.read(settings.kek_path)
        provider = settings.kek_provider
        if provider != FILE:
            opened = _vault(settings) if provider == VAULT else _plug_in(settings)
            wrappers[provider] = BoundedWrapper(await stack.enter_async_context(opened), name=provider, clock=clock)
        elif FILE not in wrappers:
            raise KeyServiceSettings("the provider `file` needs kek_path", setting="kek_path")
        yield NamedWrapper(provider, wrappers)


def _vault(settings: ServiceSettings) -> AbstractAsyncContextManager[KeyWrapper]:
    # Only who uses it pays for its HTTP client.
    from services.meshkit.crypto.vault_transit import token_of, vault_transit

    if settings.vault_url is None:
        raise KeyServiceSettings("the provider `vault` needs vault_url", setting="vault_url")
    given = settings.vault_token
    return vault_transit(
        url=settings.vault_url,
        key=settings.vault_key,
        mount=settings.vault_mount,
        token=token_of(
            token=None if given is None else Secret(given.get_secret_value()), path=settings.vault_token_path
        ),
        namespace=settings.vault_namespace,
        ca_path=settings.vault_ca_path,
    )


def _plug_in(settings: ServiceSettings) -> AbstractAsyncContextManager[KeyWrapper]:
    provider = settings.kek_provider
    found = {point.name: point for point in entry_points(group=PLUG_INS)}
    if provider not in found or not _is_name(provider):
        known = ", ".join(sorted({FILE, VAULT, *found}))
        raise KeyServiceSettings(
            f"no key provider {provider!r} is installed; there are: {known}", setting="kek_provider"
        )
    try:
        options = msgspec.json.decode(settings.kek_options.get_secret_value(), type=dict[str, str])
    except msgspec.MsgspecError as cause:
        raise KeyServiceSettings("kek_options must be a JSON object of texts", setting="kek_options") from cause
    factory = cast(KeyWrapperFactory, found[provider].load())
    return factory(options)


def _is_name(name: str) -> bool:
    return name.isascii() and 0 < len(name) <= _MAX_NAME


def _head(name: str) -> bytes:
    """What stands before a provider's own bytes. The file came first and has its version there."""
    return b"" if name == FILE else bytes((_NAMED, len(name))) + name.encode()


def _split(wrapped: bytes) -> tuple[str, bytes]:
    if wrapped[:1] != bytes((_NAMED,)):
        return FILE, wrapped
    end = 2 + (wrapped[1] if len(wrapped) > 1 else 0)
    name = wrapped[2:end]
    if len(wrapped) <= end or not name.isascii():
        raise SealBroken("a wrapped data key is damaged")
    return name.decode(), wrapped[end:]
