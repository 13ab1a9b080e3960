"""Ids, money, pages, retries and permissions."""

from datetime import UTC, datetime
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comitia.guard_table import GUARDS
from services.meshkit.core.errors import Invalid, NotFound
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import SystemIds, from_uuid, to_uuid
from services.meshkit.core.money import format_usd, price_of
from services.meshkit.core.paging import (
    clamp_page_size,
    decode_id_place,
    decode_page_token,
    decode_time_place,
    encode_page_token,
    one_page,
    time_place,
)
from services.meshkit.core.permissions import ASKED_IN_SOME_CASES, ROLE_PERMISSIONS, permissions_of
from services.meshkit.core.retry import Backoff, RetryBudget


@given(st.uuids())
def test_an_id_survives_its_trip_and_sorts_as_its_uuid(value: UUID) -> None:
    assert to_uuid(from_uuid("run", value), "run") == value


@given(st.lists(st.uuids(), min_size=2, max_size=9))
def test_ids_sort_as_their_uuids(values: list[UUID]) -> None:
    assert sorted(from_uuid("run", value) for value in values) == [from_uuid("run", value) for value in sorted(values)]


def test_new_ids_differ_and_grow() -> None:
    ids = SystemIds()
    made = [ids.new("run") for _ in range(100)]
    assert made == sorted(set(made))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run_",
        "run",
        "hold_01jd0000000000000000000000",
        "run_01JD0000000000000000000000",
        "run_81jd" + "0" * 22,
        "run_u",
    ],
)
def test_what_is_no_id_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_uuid(text, "run", field="session_id")
    assert refused.value.field == "session_id"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**12)), max_size=9))
def test_a_price_is_rounded_up_once(pairs: list[tuple[int, int]]) -> None:
    exact = sum(tokens * price for tokens, price in pairs)
    assert (price_of(pairs) - 1) * 1_000_000 < exact <= price_of(pairs) * 1_000_000


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "$0.00"), (1, "$0.000000001"), (1_500_000_000, "$1.50"), (-20_000_000, "-$0.02")]
)
def test_money_is_written_without_losing_digits(amount: int, text: str) -> None:
    assert format_usd(amount) == text


STORABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


@given(st.lists(st.one_of(STORABLE, st.integers(-(10**9), 10**9)), min_size=1, max_size=3))
def test_a_page_token_survives_its_trip(position: list[str | int]) -> None:
    types = [type(value) for value in position]
    assert decode_page_token(encode_page_token(*position), *types) == tuple(position)


@pytest.mark.parametrize("token", ["x", "!!!", "bnVsbA", "WzFd", "W3RydWVd", "x" * 600, "\u00e9"])
def test_a_foreign_page_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid, match="page_token"):
        decode_page_token(token, str)


@given(st.lists(st.integers(), max_size=20, unique=True), st.integers(1, 7))
def test_pages_show_every_row_of_a_list_once_and_in_order(rows: list[int], size: int) -> None:
    rows.sort(key=str)
    shown: list[int] = []
    token = ""
    while True:
        place = decode_page_token(token, str)
        left = rows if place is None else [row for row in rows if str(row) > place[0]]
        page, token = one_page(left[: size + 1], size, lambda row: (str(row),))
        shown.extend(page)
        if not token:
            break
        assert len(page) == size
    assert shown == rows


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_place_in_time_survives_its_trip(moment: datetime, row: UUID) -> None:
    assert decode_time_place(encode_page_token(*time_place(moment, row))) == (moment, row)


@given(st.uuids())
def test_a_place_among_ids_survives_its_trip_and_is_refused_to_another_list(row: UUID) -> None:
    token = encode_page_token(from_uuid("key", row))
    assert decode_id_place(token, "key") == row
    with pytest.raises(Invalid, match="page_token"):
        decode_id_place(token, "user")


@pytest.mark.parametrize("position", [(1 << 62, str(UUID(int=1))), (0, "no id"), (1, 2), ("x",)])
def test_a_forged_place_in_time_is_refused(position: tuple[str | int, ...]) -> None:
    with pytest.raises(Invalid, match="page_token"):
        decode_time_place(encode_page_token(*position))


def test_page_sizes_have_a_default_and_a_bound() -> None:
    assert [clamp_page_size(size) for size in (0, 7, 9_999)] == [50, 7, 500]
    with pytest.raises(Invalid):
        clamp_page_size(-1)


def test_waits_grow_up_to_their_bound() -> None:
    waits = list(Backoff(first_seconds=1, most_seconds=4, attempts=6).waits(Random(1)))
    assert len(waits) == 5
    assert all(ceiling / 2 <= wait <= ceiling for wait, ceiling in zip(waits, (1, 2, 4, 4, 4), strict=True))


def test_retries_never_multiply_load() -> None:
    budget = RetryBudget(ratio=0.25, reserve=4)
    retries = 0
    for _ in range(1_000):
        budget.earn()
        retries += budget.spend()
    assert retries <= 250 + 4


def test_every_permission_is_granted_by_a_role_and_none_is_unknown() -> None:
    asked = {guard.permission for guard in GUARDS.values() if guard.permission}
    granted = frozenset[str]().union(*ROLE_PERMISSIONS.values())
    assert asked | ASKED_IN_SOME_CASES.keys() == granted


def test_an_auditor_changes_nothing_and_a_user_governs_nothing() -> None:
    assert all(permission.endswith((".read", ".export")) for permission in permissions_of([Role.AUDITOR]))
    governing = {"api_keys.write", "policies.write", "tools.write", "budgets.limit", "tenants.write", "users.write"}
    assert not permissions_of([Role.TENANT_USER]) & governing
    assert "tenants.write" not in permissions_of([Role.ADMIN])


def test_an_error_keeps_its_values_apart_from_its_sentence() -> None:
    error = NotFound("agent", "Athena", tenant=None, hint=3)
    assert error.metadata == {"resource_type": "agent", "resource_name": "Athena", "hint": "3"}


@pytest.mark.parametrize("position", ["x\0", "\ud800", 1 << 63, -(1 << 63) - 1])
def test_a_forged_page_token_holds_nothing_that_a_database_cannot_read(position: str | int) -> None:
    token = encode_page_token(position)
    with pytest.raises(Invalid):
        decode_page_token(token, type(position))
    assert decode_page_token(encode_page_token("ü", -(1 << 63)), str, int) == ("ü", -(1 << 63))
