"""What policy refuses, each with a reason of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.meshkit.core.errors import (
    AlreadyExists,
    Exhausted,
    Invalid,
    NotFound,
    PermissionDenied,
    Precondition,
    Unavailable,
)

#: Faults of a bundle that an error lists by themselves; the message says how many there are in all.
_MOST_LISTED: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with the source of a bundle."""

    #: Place in the request, such as `source.rules[3].pattern`.
    field: str
    #: Line of the source, from 1.
    line: int
    #: Name of the rule at fault; empty where it is no rule's fault or the rule has no name.
    rule: str = ""
    #: What is wrong and what to do.
    sentence: str
    #: True when RE2 refused the pattern.
    regex: bool = False

    def __str__(self) -> str:
        rule = f", rule {self.rule}" if self.rule else ""
        return f"{self.field} (line {self.line}{rule}): {self.sentence}"


class BundleFaulty(Invalid):
    """The source of a bundle has faults. Each is named with its place, line, rule and reason; mend them all."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        first = faults[0]
        others = f"; {'; '.join(str(fault) for fault in faults[1:_MOST_LISTED])}" if len(faults) > 1 else ""
        listed = {f"fault_{number}": str(fault) for number, fault in enumerate(faults[:_MOST_LISTED], start=1)}
        super().__init__(
            first.field,
            f"line {first.line}{f', rule {first.rule}' if first.rule else ''}: {first.sentence}{others}",
            faults=len(faults),
            line=first.line,
            rule=first.rule or None,
            **listed,
        )


class RegexRefused(BundleFaulty):
    """RE2 refuses a pattern. Rewrite it without look-around, back references and huge repetitions."""

    reason = "REGEX_REFUSED"


class BundleEmpty(Invalid):
    """A bundle without rules would let everything pass. Give it at least one rule."""

    reason = "BUNDLE_EMPTY"

    def __init__(self) -> None:
        super().__init__("source", "has no rules; a bundle needs at least one under `rules:`")


class BundleNotFound(NotFound):
    """No such bundle in the caller's tenant."""

    reason = "BUNDLE_NOT_FOUND"

    def __init__(self, reference: str) -> None:
        super().__init__("bundle", reference)


class BundleVersionExists(AlreadyExists):
    """This version exists with other rules, and versions never change. Upload the rules as a new version."""

    reason = "BUNDLE_VERSION_EXISTS"

    def __init__(self, reference: str) -> None:
        super().__init__("bundle", reference)


class BundleDiffers(Precondition):
    """A bundle has other rules than those that were meant. Bundles that ship with the mesh may, after an upgrade."""

    reason = "BUNDLE_DIFFERS"

    def __init__(self, reference: str) -> None:
        super().__init__(f"the bundle {reference} has other rules by now; fork the run anew", bundle=reference)


class TooManyBundles(Exhausted):
    """The tenant stores as many bundle versions as it may."""

    reason = "TOO_MANY_BUNDLES"

    def __init__(self, most: int) -> None:
        super().__init__(f"a tenant may store at most {most} bundle versions", most=most)


class TooManyWatches(Exhausted):
    """As many callers watch violations here as may. Poll ListViolations, or try again later."""

    reason = "TOO_MANY_WATCHES"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} callers watch violations here already; try again shortly",
            retry_after=timedelta(seconds=5),
            most=most,
        )


class BundleNotForCaller(PermissionDenied):
    """Only who may change the law may have a model judged by another bundle than the law."""

    reason = "BUNDLE_NOT_FOR_CALLER"

    def __init__(self) -> None:
        super().__init__("whoever started this run may not write policies any more; fork it under the tenant's law")


class NoBundle(Unavailable):
    """The tenant's law could not be loaded, so nothing may go on. Try again shortly."""

    reason = "NO_BUNDLE"

    def __init__(self) -> None:
        super().__init__("the law of this tenant")


class WatchInterrupted(Unavailable):
    """This replica stops. Watch again from the last sequence seen; another replica answers."""

    reason = "WATCH_INTERRUPTED"

    def __init__(self) -> None:
        super().__init__("this replica", retry_after=timedelta(milliseconds=200))
