"""Commitments: what a journal chains and signs in place of the content.

The salt lies inside the sealed payload. Whoever is given both verifies; once the key is destroyed nobody can guess
the content back from the commitment.
"""

import hmac
import secrets
from hashlib import sha256
from typing import Final

SALT_BYTES: Final = 32
#: Length of a commitment.
COMMITMENT_BYTES: Final = 32


def new_salts(count: int) -> list[bytes]:
    """Makes salts of 32 random bytes, with one draw, which costs a tenth of many. A salt serves one commitment."""
    drawn = secrets.token_bytes(SALT_BYTES * count)
    return [drawn[start : start + SALT_BYTES] for start in range(0, len(drawn), SALT_BYTES)]


def commit(salt: bytes, plaintext: bytes) -> bytes:
    """Gives SHA-256(salt ‖ plaintext): 32 bytes.

    Args:
        salt: exactly 32 bytes; a fixed length is what keeps salt and plaintext apart.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    return sha256(salt + plaintext).digest()


def verifies(commitment: bytes, salt: bytes, plaintext: bytes) -> bool:
    """Tells whether the commitment was made of this salt and plaintext."""
    return len(salt) == SALT_BYTES and hmac.compare_digest(commitment, commit(salt, plaintext))
