"""An export as a file: JSON lines, of which every byte is fixed by what it says.

    {"chain_hash":"…","entry":{…},"index":"0","leaf_hash":"…"}      the entries, in order, each as it was hashed
    {"head":{"chain_hash":"…",…,"size":"120","tenant_id":"…"}}      the signed heads, oldest first
    {"key_set":{"keys":[…]}}                                        the public keys of those heads, last

Each line is RFC 8785 JSON, so any other spelling of it is a change, and found.
"""

import re
from base64 import b64decode, b64encode
from typing import Final, NamedTuple

from comitia_sdk.audit.head import AuditKeys, Head

ENTRY_START: Final = b'{"chain_hash":"'
HEAD_START: Final = b'{"head":'
KEY_SET_START: Final = b'{"key_set":'
#: Longest line that is read. An entry is a few hundred bytes; the services bound it well below this.
MAX_LINE_BYTES: Final = 1024 * 1024
#: Characters of 32 bytes in base64.
HASH_CHARACTERS: Final = 44
#: Where the entry begins in its line.
ENTRY_AT: Final = len(ENTRY_START) + HASH_CHARACTERS + len(b'","entry":')


_ENTRY: Final = re.compile(
    rb'\{"chain_hash":"([A-Za-z0-9+/]{43}=)","entry":(.*),"index":"(0|[1-9]\d{0,18})","leaf_hash":"([A-Za-z0-9+/]{43}=)"\}\n',
    re.DOTALL,
)


class EntryLine(NamedTuple):
    """What an entry's line says; nothing of it is checked."""

    #: Its `index`, which is a method of tuples.
    place: int
    canonical: bytes
    leaf_hash: bytes
    chain_hash: bytes


def read_entry_line(line: bytes) -> EntryLine | None:
    """Reads what `entry_line` wrote, None for any other line."""
    found = _ENTRY.fullmatch(line)
    if found is None:
        return None
    return EntryLine(int(found[3]), found[2], b64decode(found[4]), b64decode(found[1]))


def entry_line(index: int, canonical: bytes, leaf_hash: bytes, chain_hash: bytes) -> bytes:
    """Writes an entry with its place and hashes."""
    return b"".join(
        (
            ENTRY_START,
            b64encode(chain_hash),
            b'","entry":',
            canonical,
            entry_end(index, leaf_hash),
        )
    )


def entry_end(index: int, leaf_hash: bytes) -> bytes:
    """Writes what follows the entry in its line."""
    return b',"index":"%d","leaf_hash":"%b"}\n' % (index, b64encode(leaf_hash))


def head_line(head: Head) -> bytes:
    """Writes a head."""
    return b"%b%b}\n" % (HEAD_START, head.to_json())


def read_head(line: bytes) -> Head:
    """Reads what `head_line` wrote. Raises: HeadMalformed."""
    return Head.from_json(line.removeprefix(HEAD_START).removesuffix(b"}\n"))


def key_set_line(keys: AuditKeys, used: set[str]) -> bytes:
    """Writes the keys of these ids."""
    return b"%b%b}\n" % (KEY_SET_START, keys.to_json(used))


def read_key_set(line: bytes) -> AuditKeys:
    """Reads what `key_set_line` wrote. Raises: HeadMalformed."""
    return AuditKeys.read(line.removeprefix(KEY_SET_START).removesuffix(b"}\n"))
