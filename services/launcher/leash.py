"""The first moments of every child: tie it to the launcher, then become the program.

    python -I -S leash.py <launcher pid> <signal> <self | namespace | uid:gid> <program> [argument …]

Runs after fork and exec, so that the launcher (which has threads) never runs Python code between the two. Imports
nothing of ours: it costs 10 ms a child.

    self        runs as the launcher's user
    namespace   for a program that refuses root: in a user namespace of its own root is seen as user 1000. Files keep
                their owner and mode, and no account is needed
    uid:gid     the same where namespaces are forbidden: as that account, keeping only the right to pass closed
                directories (CAP_DAC_OVERRIDE), because data and wheels may lie below /root
"""

import contextlib
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CLONE_NEWUSER = 0x10000000
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522
#: Exit code that says the leash itself failed, before the program began.
LEASH_FAILED = 125
SEEN_AS = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Ties, changes identity, executes. Never returns."""
    launcher, death_signal, identity, program = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3:]
    try:
        if identity == "namespace":
            _enter_namespace()
        elif identity != "self":
            uid, _, gid = identity.partition(":")
            _become(int(uid), int(gid))
        # After the change of identity, which clears it.
        _call(_libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0))
        if os.getppid() != launcher:
            sys.exit(LEASH_FAILED)  # the launcher died before the leash was on
        os.execv(program[0], program)
    except OSError as cause:
        print(f"cannot start {program[0]}: {cause}", file=sys.stderr)
        sys.exit(LEASH_FAILED)


def _enter_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call(_libc.unshare(CLONE_NEWUSER))
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{SEEN_AS} {uid} 1")
    _write("/proc/self/gid_map", f"{SEEN_AS} {gid} 1")


def _become(uid: int, gid: int) -> None:
    _call(_libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    wanted = 1 << CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(wanted, wanted, wanted, 0, 0, 0)  # effective, permitted, inheritable; low, then high
    # Without it the program still starts where the account can reach its files.
    with contextlib.suppress(OSError):
        _call(_libc.capset(ctypes.byref(header), ctypes.byref(sets)))
        _call(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))


def _write(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
