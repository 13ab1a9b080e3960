"""Secrets are not seen: the type, and what a log line shows of them."""

import io
import json
import logging
import pickle
from dataclasses import dataclass

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.core.secret import Secret
from services.meshkit.telemetry.redact import redact, redact_text

CANARY = "canary-7f3a9c"


@dataclass
class Carrier:
    token: Secret


def test_a_secret_shows_itself_to_nobody_but_who_asks() -> None:
    secret = Secret(CANARY)
    carrier = Carrier(secret)
    shown = [
        repr(secret),
        str(secret),
        f"{secret} {secret!r} {secret!s:>9} {carrier}",
        "%s %r" % (secret, secret),  # noqa: UP031
        json.dumps({"a": secret}, default=str),
        msgspec.json.encode({"a": secret, "b": carrier}, enc_hook=str).decode(),
        repr({secret: [secret]}),
        repr(ValueError(secret)),
    ]
    assert not [text for text in shown if CANARY in text]
    assert secret.reveal() == CANARY
    assert (secret == Secret(CANARY), secret == Secret("x"), secret == CANARY) == (True, False, False)
    assert {secret: 1}[Secret(CANARY)] == 1
    assert (bool(secret), bool(Secret(""))) == (True, False)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
KEY = "ck_01jxyzabcdefghjkmnpqrstvwx_" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"x-api-key: {KEY}", "x-api-key: ck_01jxyzabcdefghjkmnpqrstvwx_***"),
        (f"Bearer {JWT}!", "Bearer ***!"),
        (f"got {JWT} from", "got *** from"),
        ("Incorrect API key provided: sk-proj-abcdefghijkl1234", "Incorrect API key provided: ***"),
        ("postgresql://app:p4ss%20w@db:5432/x?sslmode=off", "postgresql://***@db:5432/x?sslmode=off"),
        ("nats://t0ken@127.0.0.1:4222", "nats://***@127.0.0.1:4222"),
        ("http://127.0.0.1:4222/a@b", "http://127.0.0.1:4222/a@b"),
        ("hvs.CAESIabcdefghijkl", "***"),
        ('{"password": "p4ssword"}', '{"password": "***"}'),
        ("password=p4ss&user=ann", "password=***&user=ann"),
        ("-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\nrest", "***\nrest"),
        ("12 tokens were used by the task of Ann", "12 tokens were used by the task of Ann"),
        ("the run run_01jxyz is over", "the run run_01jxyz is over"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_taken_out_of_a_line(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_what_is_named_like_a_secret_is_taken_out_of_a_line() -> None:
    line = {
        "event": "done",
        "token": CANARY,
        "api_key": CANARY,
        "Authorization": CANARY,
        "prompt": CANARY,
        "nested": {"db_password": CANARY, "list": [{"client_secret": CANARY}], "carrier": Carrier(Secret(CANARY))},
        "content": [CANARY],
        "input_tokens": 12,
        "key_id": "key_1",
        "token_count": 3,
        "seconds": 0.5,
    }
    found = redact(dict(line))
    assert CANARY not in json.dumps(found)
    assert [found[name] for name in ("event", "input_tokens", "key_id", "token_count", "seconds")] == [
        "done",
        12,
        "key_1",
        3,
        0.5,
    ]


@given(before=st.text(max_size=40), after=st.sampled_from(["", " ", "'", '"', ",", "\n", ")", "&x=1"]))
def test_an_api_key_never_survives_wherever_it_stands(before: str, after: str) -> None:
    assert "ab" * 32 not in redact_text(f"{before} {KEY}{after}")


@given(text=st.text(max_size=200))
def test_redacting_is_done_once(text: str) -> None:
    assert redact_text(redact_text(text)) == redact_text(text)


def test_lines_of_libraries_and_stack_traces_are_redacted_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from services.meshkit.telemetry import logs

    class Output(io.TextIOWrapper):
        """Standard output with a buffer, as the log writes to it."""

    output = Output(io.BytesIO())
    monkeypatch.setattr("sys.stdout", output)
    root = logging.getLogger()
    before, level, configured = root.handlers[:], root.level, structlog.get_config()
    try:
        logs.setup_logs("debug")
        try:
            raise ValueError(f"cannot connect to postgresql://app:{CANARY}@db/x with {KEY}")
        except ValueError as error:
            logs.logger("test").error("broken", exc_info=error, password=CANARY)
        logging.getLogger("library").warning("retrying %s", f"https://u:{CANARY}@host/")
    finally:
        root.handlers[:], root.level = before, level
        structlog.configure(**configured)
    output.flush()
    written = output.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert written.count("\n") == 2
    assert "ValueError" in written
    assert CANARY not in written
    assert "ab" * 32 not in written
