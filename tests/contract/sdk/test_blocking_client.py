"""The blocking client: the same methods, and a keyboard that interrupts."""

import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from comitia_sdk import Client, aio, errors, sync
from tests.support.fake_mesh import ADMIN_KEY, FakeMesh

_GROUPS = [
    (sync.Agents, aio.AsyncAgents),
    (sync.Costs, aio.AsyncCosts),
    (sync.Identity, aio.AsyncIdentity),
    (sync.Memories, aio.AsyncMemories),
    (sync.Models, aio.AsyncModels),
    (sync.Policies, aio.AsyncPolicies),
    (sync.Sessions, aio.AsyncSessions),
    (sync.Tools, aio.AsyncTools),
    (sync.Users, aio.AsyncUsers),
]


@pytest.mark.parametrize(("blocking", "asynchronous"), _GROUPS, ids=[group.__name__ for group, _ in _GROUPS])
def test_both_clients_can_do_the_same(blocking: type, asynchronous: type) -> None:
    def methods(of: type) -> dict[str, str | None]:
        return {name: inspect.getdoc(found) for name, found in vars(of).items() if not name.startswith("_")}

    assert methods(blocking) == methods(asynchronous)


def test_calls_lists_and_streams_work_without_a_loop(mesh: FakeMesh, blocking: Client) -> None:
    for name in ("Athena", "Apollo"):
        blocking.agents.create(name)
    session = blocking.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"], max_rounds=1)
    mesh.sessions.breaks = [3]

    assert [agent.name for agent in blocking.agents.list(page_size=1)] == ["Apollo", "Athena"]
    events = list(blocking.sessions.watch(session.session_id))
    assert [event.turn_completed.agent_name for event in events if event.HasField("turn_completed")] == [
        "Athena",
        "Apollo",
    ]
    assert len(list(blocking.sessions.turns(session.session_id))) == 2
    assert blocking.status().serving


def test_a_refusal_is_raised_where_the_call_was_made(blocking: Client) -> None:
    with pytest.raises(errors.NotFound) as refused:
        blocking.agents.get("Nobody")
    assert refused.value.metadata["resource_name"] == "Nobody"
    with pytest.raises(errors.NotFound):
        list(blocking.sessions.turns("run_none"))


def test_several_threads_may_share_a_client(blocking: Client) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(blocking.identity.whoami().subject)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == ["key_1"] * 8


def test_leaving_a_stream_early_and_closing_leaves_nothing_behind(mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    before = threading.active_count()
    with Client(mesh.url, api_key=ADMIN_KEY) as client:
        client.agents.create("Athena")
        session = client.sessions.start("x", agents=["Athena"])
        for event in client.sessions.watch(session.session_id):
            if event.HasField("turn_started"):
                break
        half_read = client.sessions.watch(session.session_id)
        next(half_read)

    names = [thread.name for thread in threading.enumerate()]
    assert "comitia-sdk" not in names, before


def test_a_closed_client_says_so(mesh: FakeMesh) -> None:
    client = Client(mesh.url, api_key=ADMIN_KEY)
    client.close()
    client.close()

    with pytest.raises(RuntimeError, match="the client is closed"):
        client.identity.whoami()


def test_an_address_that_is_none_leaves_no_thread() -> None:
    with pytest.raises(errors.InvalidRequest):
        Client("ftp://nowhere")
    assert "comitia-sdk" not in [thread.name for thread in threading.enumerate()]


_WATCHER = """
import sys
from comitia_sdk import Client
with Client() as client:
    client.agents.create("Athena")
    session = client.sessions.start("x", agents=["Athena"])
    try:
        for event in client.sessions.watch(session.session_id):
            print("event", flush=True)
    except KeyboardInterrupt:
        print(client.sessions.cancel(session.session_id).state_reason, flush=True)
"""


def test_a_keyboard_interrupt_ends_the_wait_and_leaves_the_client_usable(mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    environment = {**os.environ, "COMITIA_URL": mesh.url, "COMITIA_API_KEY": ADMIN_KEY}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _WATCHER],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["event\n"] * 2
        time.sleep(0.2)  # it waits for an event that never comes
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out, err) == (0, "CANCELLED\n", "")
