"""Of what a listener says of its caller's certificate, only what is said once and plainly names somebody."""

import pytest

from services.meshkit.grpc.forwarded_certificate import FORWARDED_CERTIFICATE, forwarded_names

HASH = f"Hash={'0a' * 32}"


def told(*values: str | bytes) -> frozenset[str]:
    return forwarded_names([("authorization", "Bearer x"), *((FORWARDED_CERTIFICATE, value) for value in values)])


def test_one_name_is_the_name() -> None:
    assert told(f"{HASH};DNS=cost.comitia") == {"cost.comitia"}


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        (HASH,),
        ("DNS=cost.comitia",),
        (f"{HASH};DNS=",),
        (f"{HASH};DNS=cost.comitia;DNS=tools.comitia",),
        (f"{HASH};DNS=cost.comitia,{HASH};DNS=tools.comitia",),
        (f"{HASH};DNS=cost.comitia", f"{HASH};DNS=cost.comitia"),
        (f'By=spiffe://a;{HASH};Subject="CN=cost";DNS=cost.comitia',),
        (f"{HASH};URI=spiffe://cost.comitia",),
        (f"{HASH};dns=cost.comitia",),
        (f"{HASH};DNS=COST.comitia",),
        (f"{HASH};DNS=*.comitia",),
        (f'{HASH};DNS="cost.comitia"',),
        (f"{HASH};DNS=cost.comitia ",),
        (f"{HASH};DNS=cost.comitia\n",),
        (f"{HASH};DNS=cost.comitia;",),
        (f"{HASH};DNS=cost..comitia",),
        (f"{HASH};DNS=\uff43ost.comitia",),
        (f"Hash={'0a' * 31};DNS=cost.comitia",),
        (f"{HASH};DNS={'a.' * 5000}comitia",),
        (f"{HASH};DNS=cost.comitia".encode(),),
    ],
    ids=lambda values: repr(values)[:60],
)
def test_all_else_names_nobody(values: tuple[str | bytes, ...]) -> None:
    assert told(*values) == frozenset()
