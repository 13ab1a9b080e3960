"""What holds for every test: nobody leaves this machine, and a suite that skipped everything is not green."""

import gc
import ipaddress
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.fault_rows import FaultTable, noting

settings.register_profile("comitia", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# On CI the same examples every time: a red build is then about the change.
settings.register_profile("ci", settings.get_profile("comitia"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "comitia")

#: Folders whose tests share a mesh: one worker runs all tests of one, so that each mesh is started once.
SHARING_A_MESH = ("tests/e2e/", "tests/faults/")
#: Folders whose files have servers and databases of their own: one worker runs a file, so that each starts once.
SHARING_SERVERS = ("tests/contract/", "tests/integration/")
LOCAL_NAMES = frozenset({"", "localhost", "0.0.0.0", "::", "ip6-localhost"})


class LeftTheMachine(RuntimeError):
    """A test tried to reach another machine. No OSError, so that no retry or fallback takes it for a dead network."""


class LoopbackOnly:
    """Audit hook that refuses sockets of this process a way out. Hooks cannot be removed, so it is switched."""

    def __init__(self) -> None:
        self.armed = False
        #: Addresses refused so far; a test that swallowed the error still fails.
        self.refused: list[str] = []

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.armed or not event.startswith("socket."):
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            sock, address = args[0], args[1]
            if isinstance(sock, socket.SocketType) and sock.family in (socket.AF_INET, socket.AF_INET6) and address:
                self._allow(address)
        elif event == "socket.getaddrinfo":
            self._allow((args[0],))

    def _allow(self, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else address
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        if not is_local(name):
            self.refused.append(name)
            raise LeftTheMachine(f"A test tried to reach {name}. Tests talk to this machine only.")


def is_local(host: str) -> bool:
    """Tells whether an address or a name can only mean this machine."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


_loopback_only = LoopbackOnly()


@pytest.fixture(scope="session", autouse=True)
def _nobody_leaves_this_machine() -> Iterator[None]:
    sys.addaudithook(_loopback_only)
    _loopback_only.armed = True
    yield
    _loopback_only.armed = False


@pytest.fixture(autouse=True)
def refused_addresses() -> Iterator[list[str]]:
    """Addresses that the test tried to reach in vain. Left over at its end, they fail it."""
    _loopback_only.refused.clear()
    yield _loopback_only.refused
    left, _loopback_only.refused[:] = list(_loopback_only.refused), []
    assert not left, f"the test tried to reach {', '.join(left)}"


@pytest.fixture(autouse=True)
def _faults_are_noted(request: pytest.FixtureRequest) -> Iterator[None]:
    with noting(request.node.user_properties):
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps tests that share a mesh, or the servers of a file, on one worker. What is many tests is begun first.

    The mark `xdist_group` alone does not: xdist 3.8 writes the group into the id of a test where pytest 9.2 no longer
    looks for it, so every test would be a group of its own.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling  # only where it is installed and asked for

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(SHARING_SERVERS):
                return nodeid.partition("::")[0]
            shared = next((folder for folder in SHARING_A_MESH if nodeid.startswith(folder)), None)
            return shared or super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects without looking for garbage, and leaves what was imported and collected out of all later looks.

    Nearly all of it stays to the end: some 700,000 objects, at half a second for each look.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def skipped_suites(reports: dict[str, list[pytest.TestReport]]) -> list[str]:
    """Suites, such as `tests/integration`, of which every test was skipped."""
    ran: defaultdict[str, int] = defaultdict(int)
    for outcome in ("passed", "failed", "error", "xfailed", "xpassed", "skipped"):
        for report in reports.get(outcome, []):
            suite = "/".join(getattr(report, "nodeid", "").split("::")[0].split("/")[:2])
            ran[suite] += outcome != "skipped"
    return sorted(suite for suite, count in ran.items() if count == 0)


def fault_table(stats: dict[str, list[Any]]) -> FaultTable:
    """Gives what was done to the parts of the mesh in a run."""
    return FaultTable(report for outcome in ("passed", "failed") for report in stats.get(outcome, []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turns the session red when a whole suite was skipped, or fewer faults were survived than had to be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput") or session.exitstatus != pytest.ExitCode.OK:
        return
    if skipped_suites(reporter.stats) or fault_table(reporter.stats).missing:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts what was skipped and says which suites were skipped whole."""
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"{skipped} skipped: each says above what was missing")
    for suite in skipped_suites(terminalreporter.stats):
        terminalreporter.write_line(f"RED: every test of {suite} was skipped", red=True)
    table = fault_table(terminalreporter.stats)
    if "faults" in terminalreporter.config.option.markexpr.replace("not faults", ""):
        terminalreporter.section("faults")
        for line in table.lines():
            terminalreporter.write_line(line)
    if table.missing:
        terminalreporter.write_line(f"RED: {table.missing} faults too few were survived", red=True)
