"""What is signed of a run, without a run."""

from hashlib import sha256

from comitia_sdk.audit.canonical import canonical_json
from comitia_sdk.record.provenance import Statement

HEAD = sha256(b"").hexdigest()
MANIFEST = canonical_json({"agents": [], "commitments_sha256": HEAD, "facts": "42"}).decode()


def a_statement(**fields: str) -> Statement:
    """Builds a statement about a run that has ended."""
    said = {
        "tenant_id": "tenant_01jd0000000000000000000000",
        "run_id": "run_01jd0000000000000000000000",
        "manifest_sha256": sha256(MANIFEST.encode()).hexdigest(),
        "commitments_sha256": HEAD,
        "facts": "42",
        "outcome": "SUCCEEDED",
        "cost_nano_usd": "7",
        "start_time": "2026-11-21T15:40:00Z",
        "end_time": "2026-11-21T15:41:00Z",
        "program": "dialogue",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
    }
    return Statement(**{**said, **fields})
