"""What every wrapper of data keys must do: a key file, and the transit engine of a real OpenBao."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.meshkit.core.secret import Secret
from services.meshkit.crypto.bounded import BoundedWrapper
from services.meshkit.crypto.errors import KeyServiceAway, SealBroken
from services.meshkit.crypto.kek_file import KekFile, add_kek, create_kek_file
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.crypto.vault_transit import token_of, vault_transit
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.openbao import OpenBao, open_bao


class Case:
    """A wrapper, another process's view of the same key, and how its key is replaced."""

    def __init__(self, wrapper: KeyWrapper, other: KeyWrapper, *, kek: Path | None, bao: OpenBao | None) -> None:
        self.wrapper = wrapper
        self.other = other
        self._kek = kek
        self._bao = bao

    async def rotate(self) -> None:
        if self._kek is not None:
            add_kek(self._kek)
        if self._bao is not None:
            await self._bao.post("transit/keys/comitia/rotate")


@pytest.fixture(params=["file", "vault"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Case]:
    async with AsyncExitStack() as stack:
        if request.param == "file":
            kek = tmp_path / "kek"
            create_kek_file(kek)
            yield Case(await KekFile.read(kek), await KekFile.read(kek), kek=kek, bao=None)
            return
        bao = await stack.enter_async_context(open_bao(tmp_path))
        token = token_of(token=Secret(await bao.token_for("comitia")), path=None)
        vaults = [
            await stack.enter_async_context(vault_transit(url=bao.url, key="comitia", mount="transit", token=token))
            for _ in range(2)
        ]
        yield Case(vaults[0], vaults[1], kek=None, bao=bao)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.binary(min_size=1, max_size=64), context=st.binary(max_size=80), other=st.binary(max_size=80))
async def test_what_was_wrapped_opens_in_its_context_and_in_no_other(
    case: Case, key: bytes, context: bytes, other: bytes
) -> None:
    wrapped = await case.wrapper.wrap(key, context=context)
    assert key not in wrapped or len(key) < 4
    assert await case.other.unwrap(wrapped, context=context) == key
    if other != context:
        with pytest.raises(SealBroken):
            await case.wrapper.unwrap(wrapped, context=other)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_cut_or_changed_wrapping_is_refused(case: Case, data: st.DataObject) -> None:
    wrapped = await case.wrapper.wrap(b"d" * 32, context=b"c")
    place = data.draw(st.integers(0, len(wrapped) - 1))
    changed = bytearray(wrapped)
    changed[place] ^= data.draw(st.integers(1, 127))
    for broken in (wrapped[:place], bytes(changed)):
        try:
            assert await case.wrapper.unwrap(broken, context=b"c") == b"d" * 32, "base64 has more than one spelling"
        except SealBroken:
            continue


async def test_the_mark_tells_old_wrappings_from_new_ones(case: Case) -> None:
    old = await case.wrapper.wrap(b"d" * 32, context=b"c")
    assert old.startswith(await case.wrapper.mark())
    await case.rotate()
    mark = await case.wrapper.mark()
    assert not old.startswith(mark)
    new = await case.wrapper.wrap(b"d" * 32, context=b"c")
    assert new.startswith(mark)
    assert [await case.other.unwrap(one, context=b"c") for one in (old, new)] == [b"d" * 32] * 2


async def test_a_vault_that_is_gone_sealed_or_refuses_us_is_unavailable_in_a_sentence(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s.nobody")
    async with open_bao(tmp_path) as bao:
        good = await bao.token_for("comitia")
        async with vault_transit(
            url=bao.url, key="comitia", mount="transit", token=token_of(token=None, path=token_file)
        ) as vault:
            clock = FakeClock()
            wrapper = BoundedWrapper(vault, name="vault", clock=clock)
            with pytest.raises(KeyServiceAway, match="vault does not answer right now") as refused:
                await wrapper.wrap(b"d" * 32, context=b"c")
            assert refused.value.metadata["status"] == "403"
            assert "s.nobody" not in repr(refused.value) + str(refused.value.metadata)

            token_file.write_text(f"{good}\n")
            clock.advance(seconds=2)
            wrapped = await wrapper.wrap(b"d" * 32, context=b"c")

            await bao.post("sys/seal")
            with pytest.raises(KeyServiceAway):
                await wrapper.unwrap(wrapped, context=b"c")
            bao.process.kill()
            await bao.process.wait()
            clock.advance(seconds=2)
            with pytest.raises(KeyServiceAway) as gone:
                await wrapper.unwrap(wrapped, context=b"c")
            assert gone.value.metadata["problem"] == "ClientConnectorError"
