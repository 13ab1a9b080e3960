"""The life of a service process: settings, start, drain, exit codes, one sentence when it fails."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.meshkit.core.clock import SystemClock
from services.meshkit.testing.mesh_keys import MeshKeys

MAIN = """
    import asyncio
    import atexit
    import gc
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager
    from pydantic_settings import SettingsConfigDict
    from services.meshkit.grpc.server import Server
    from services.meshkit.grpc.workload_identity import workload_identity
    from services.meshkit.guard.mesh_guard import mesh_guard
    from services.meshkit.process import run_service
    from services.meshkit.settings import ServiceSettings
    from services.meshkit.core.failpoints import failpoint

    class Settings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="COMITIA_SAMPLE_")

    async def sweep():
        await asyncio.sleep(0.2)
        await failpoint("sample.sweep")
        print("swept", flush=True)
        await asyncio.Event().wait()

    @asynccontextmanager
    async def sample(settings, *, clock, ids):
        identity = workload_identity(settings, "sample", clock=clock)
        async with mesh_guard(settings, {}, service="sample", clock=clock, workload=identity) as guard:
            yield Server(name="sample", listen=settings.listen, registrations=[], background=[sweep],
                         admission=guard.admission, clock=clock, notice_seconds=settings.notice_seconds)
        print("wiring closed", flush=True)

    atexit.register(lambda: print("left to collect:", len(gc.get_objects())))
    run_service("sample", Settings, sample)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    keys = MeshKeys.make(tmp_path, clock=SystemClock())
    settings = {
        "LISTEN": "127.0.0.1:0",
        "DATABASE_URL": "postgresql://app:hidden@127.0.0.1/x",
        "MAINTENANCE_DATABASE_URL": "postgresql://maintenance:hidden@127.0.0.1/x",
        "JWKS_PATH": str(keys.jwks_path),
        "WORKLOAD_KEY_PATH": str(keys.key_path("tools")),
        "WORKLOAD_JWKS_PATH": str(keys.workload_jwks_path),
    }
    return {**os.environ, **{f"COMITIA_SAMPLE_{name}": value for name, value in settings.items()}}


def start(environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(MAIN)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_service_drains_when_told_and_exits_well(environment: dict[str, str], told: signal.Signals) -> None:
    with start(environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "swept\n":
                break
        process.send_signal(told)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert "wiring closed" in output
    left = int(output.rpartition("left to collect:")[2])
    assert left < 1000, "the end of the process waits for a collection of all that was imported"


def test_a_service_that_leaves_slowly_stops_at_once_when_everything_is_stopped(environment: dict[str, str]) -> None:
    environment["COMITIA_SAMPLE_NOTICE_SECONDS"] = "600"
    with start(environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "swept\n":
                process.send_signal(signal.SIGTERM)
            if '"leaving"' in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert "wiring closed" in output


def test_wrong_settings_are_said_in_one_sentence_without_their_values(environment: dict[str, str]) -> None:
    del environment["COMITIA_SAMPLE_JWKS_PATH"]
    environment["COMITIA_SAMPLE_LISTEN"] = "nonsense-value"
    with start(environment) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("sample cannot start: ")
    assert "COMITIA_SAMPLE_JWKS_PATH" in errors
    assert "COMITIA_SAMPLE_LISTEN" in errors
    assert "nonsense-value" not in errors
    assert "hidden" not in errors
    assert errors.count("\n") == 1


def test_a_taken_address_is_said_in_one_sentence(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment["COMITIA_SAMPLE_LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        environment["GRPC_VERBOSITY"] = "NONE"
        with start(environment) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert errors.startswith("sample cannot start: sample cannot listen on 127.0.0.1:")
    assert errors.count("\n") == 1


def test_a_missing_key_set_is_said_in_one_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    environment["COMITIA_SAMPLE_JWKS_PATH"] = str(tmp_path / "none.jwks")
    with start(environment) as process:
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert "COMITIA_SAMPLE_JWKS_PATH" in errors
    assert "none.jwks" in errors


@pytest.mark.parametrize(("armed", "code"), [("sample.sweep=kill", -signal.SIGKILL), ("sample.sweep=error", 1)])
def test_a_failpoint_of_the_settings_ends_the_process(environment: dict[str, str], armed: str, code: int) -> None:
    environment["COMITIA_SAMPLE_FAILPOINTS"] = armed
    with start(environment) as process:
        process.communicate(timeout=20)
    assert process.returncode == code


def test_a_misspelt_failpoint_is_a_wrong_setting(environment: dict[str, str]) -> None:
    environment["COMITIA_SAMPLE_FAILPOINTS"] = "sample.sweep=burn"
    with start(environment) as process:
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.count("\n")) == (2, 1)
