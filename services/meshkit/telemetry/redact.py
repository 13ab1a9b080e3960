"""The second line of defence: takes out of log lines what looks like a secret. The first is `core.secret.Secret`.

By the name of the field, and by the shape of the text: API keys of ours and of providers, tokens, private keys, and
passwords in addresses.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, cast

from services.meshkit.core.secret import MASK

#: A field with one of these words in its name holds a secret, unless its value is a number or a truth value.
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_.-])(?:tokens?|secrets?|passwords?|passwd|pwd|authorization|credentials?|assertion|cookie"
    r"|api_?key|private_?key|access_?key|kek|bearer|dsn|prompts?|arguments|content|parts|plaintext)(?:$|[_.-])",
    re.IGNORECASE,
)
#: Names that end alike and say nothing secret.
_HARMLESS_NAME: Final = re.compile(r"(?:_id|_ids|_hash|_path|_type|_count|_bytes|_class|_seconds)$", re.IGNORECASE)
_SHAPES: Final = (
    # Ours: `ck_<id>_<secret>`; the id may be seen.
    (re.compile(r"\b(ck_[0-9a-z]{1,40}_)[^\s\"'&,;]+"), rf"\1{MASK}"),
    # Signed JSON web tokens, ours and those of issuers; sealed ones have five parts.
    (re.compile(r"\beyJ[\w-]{6,}(?:\.[\w-]*){1,4}"), MASK),
    # Providers, code hosts, clouds, Vault.
    (re.compile(r"\b(?:sk|pk|rk)-[\w-]{12,}"), MASK),
    (re.compile(r"\b(?:ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|hvs|hvb)[_.-][\w-]{10,}"), MASK),
    (re.compile(r"\bAKIA[0-9A-Z]{12,}"), MASK),
    (re.compile(r"\bAIza[\w-]{20,}"), MASK),
    (re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"), MASK),
    # `scheme://user:password@host`, and a token alone before the @.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://)(?:[^\s/?#@:]*:)?[^\s/?#@]*@"), rf"\1{MASK}@"),
    (
        re.compile(r"(?i)\b((?:password|passwd|pwd|secret|token|api_?key)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&)}]{3,}"),
        rf"\1{MASK}",
    ),
)
#: Cheap first look: a text without any of these has none of the shapes.
_HINTS: Final = re.compile(
    r"(?i)ck_|eyJ|[spr]k-|gh[posu]_|github_pat|glpat|xox|hv[sb]\.|AKIA|AIza|bearer|basic |PRIVATE KEY|://|passw|pwd|secret|token|api_?key"
)
_MAX_DEPTH: Final = 6


def redact(line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Gives the line without what looks like a secret."""
    for name, value in line.items():
        # structlog keeps what it needs itself under names that begin so, and takes it out before writing.
        if not name.startswith("_"):
            line[name] = _value(name, value, _MAX_DEPTH)
    return line


def redact_text(text: str) -> str:
    """Gives the text without what looks like a secret."""
    if _HINTS.search(text) is None:
        return text
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def _value(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return redact_text(str(value))
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        return {str(key): _value(str(key), inner, depth - 1) for key, inner in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value("", inner, depth - 1) for inner in cast("Iterable[Any]", value)]
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes, not shown"
    # Whatever else it is, the line gets its own text and never its fields one by one.
    return redact_text(str(value))
