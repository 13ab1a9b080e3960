"""The audit trail's own arithmetic: canonical form, hashes, proofs, heads, and the verifier of exports.

Pure: it opens no connection and reads no clock. The gateway chains entries with the very code that an auditor checks
them with (docs/decisions/0003-audit-trail.md); it is the one part of the SDK that services import.

canonical.py   an entry as bytes       merkle.py   hashes, tree, proofs       head.py   signed heads, and their keys
lines.py       an export as a file     verify.py   what is wrong with an export, and where
"""
