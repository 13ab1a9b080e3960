"""The calls of one run: which of them facts ask for, which are being made, and which nobody waits for any more."""

from collections.abc import Sequence

from comitia.orchestrator.v1 import journal_pb2

#: Place of a call in its run.
CallKey = tuple[str, int]


class RunCalls:
    """Changed by facts, but for what is being made."""

    __slots__ = ("_given_up", "_in_flight", "_of_path", "_outstanding")

    def __init__(self) -> None:
        #: Calls that a fact asks for and none has answered: that fact, and its sequence.
        self._outstanding: dict[CallKey, tuple[int, journal_pb2.JournalEntry]] = {}
        #: Those of them that are being made.
        self._in_flight: set[CallKey] = set()
        #: The call that each path waits for; a path makes one after the other.
        self._of_path: dict[str, CallKey] = {}
        #: Calls that are waited for no longer, though nobody answered; each with the sequence of the fact that says so.
        self._given_up: list[tuple[int, CallKey]] = []

    def __contains__(self, key: CallKey) -> bool:
        """Says whether a call waits for its outcome."""
        return key in self._outstanding

    def __len__(self) -> int:
        """Number of calls that wait for their outcome."""
        return len(self._outstanding)

    @property
    def in_flight(self) -> bool:
        """True while one is being made."""
        return bool(self._in_flight)

    @property
    def sub_runs(self) -> Sequence[str]:
        """The runs that are waited for, begun or not."""
        return [_sub_run_of(entry) for _, entry in self._outstanding.values() if _is_sub_run(entry)]

    @property
    def of_sub_runs(self) -> Sequence[CallKey]:
        """The calls being made that are runs of their own."""
        made = ((key, self._outstanding.get(key)) for key in self._in_flight)
        return [key for key, asked in made if asked is not None and _is_sub_run(asked[1])]

    def until(self, sequence: int) -> Sequence[journal_pb2.JournalEntry]:
        """Gives those that facts up to this one ask for."""
        return [entry for at, entry in self._outstanding.values() if at <= sequence]

    def ask(self, entry: journal_pb2.JournalEntry, sequence: int) -> None:
        """Takes a CallIntended fact."""
        path = entry.path
        key = path, entry.call_intended.call_index
        self._outstanding[key] = sequence, entry
        self._of_path[path] = key

    def asked_at(self, key: CallKey) -> int:
        """Gives the sequence of the fact that asks for a call which waits for its outcome."""
        return self._outstanding[key][0]

    def begin(self, key: CallKey) -> bool:
        """Notes that a call is being made; False when it is already, or not waited for."""
        if key not in self._outstanding or key in self._in_flight:
            return False
        self._in_flight.add(key)
        return True

    def leave_out(self, key: CallKey) -> None:
        """Notes that a call is not being made for now."""
        self._in_flight.discard(key)

    def settle(self, key: CallKey) -> journal_pb2.CallIntended | None:
        """Takes the outcome of a call; gives what was asked for, None where nobody waits for it."""
        asked = self._outstanding.pop(key, None)
        if asked is None:
            return None
        self._in_flight.discard(key)
        self._of_path.pop(key[0], None)
        return asked[1].call_intended

    def waits(self, path: str) -> bool:
        """Says whether a path waits for a call."""
        return path in self._of_path

    def give_up(self, path: str, sequence: int) -> str:
        """Waits no longer for the call of a path, as a fact says; gives the sub-run that it was, if it was one."""
        key = self._of_path.get(path)
        if key is None:
            return ""
        if key in self._in_flight:
            self._given_up.append((sequence, key))
        _, entry = self._outstanding[key]
        self.settle(key)
        return _sub_run_of(entry) if _is_sub_run(entry) else ""

    def given_up(self, sequence: int) -> Sequence[CallKey]:
        """Gives those that facts up to this one have given up, once; others go on until theirs is recorded (INV-1)."""
        if not self._given_up:
            return ()
        given_up = [key for at, key in self._given_up if at <= sequence]
        self._given_up = self._given_up[len(given_up) :]
        return given_up

    def end(self) -> None:
        """Waits for none any more: the run has ended."""
        self._outstanding.clear()
        self._of_path.clear()


def _is_sub_run(intended: journal_pb2.JournalEntry) -> bool:
    return intended.call_intended.kind == journal_pb2.CALL_KIND_RUN


def _sub_run_of(intended: journal_pb2.JournalEntry) -> str:
    return journal_pb2.SubRunTask.FromString(intended.call_intended.request).run_id
