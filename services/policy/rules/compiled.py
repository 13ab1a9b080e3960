"""A bundle ready to judge: its searches compiled, its rules sorted by where they apply.

One pass of a set over a text tells which rules may have matched; only those are then looked at closely. Reading is
safe from several threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.meshkit.content import Part
from services.policy.domain.subject import Operation, Stage, Subject
from services.policy.domain.verdict import Action, Judgement, RuleResult
from services.policy.rules.engine import Expression, ExpressionSet, Span, release_cache
from services.policy.rules.keyword import KeywordFinder, screen_expression
from services.policy.rules.measure import crossed, exceeded, own_measures
from services.policy.rules.redaction import Redaction, Redactor
from services.policy.rules.spec import KeywordRule, RegexRule, ResourceRule, Rule, ThresholdRule
from services.policy.rules.texts import redacted_part, texts_of

#: Matches of one rule in one text that are counted for the rationale.
_MOST_COUNTED: Final = 100
#: Places that a rationale names.
_MOST_PLACES: Final = 8

#: A verdict that takes longer makes its bundle slow for so many quick verdicts. Usual ones take 0.02 to 5 ms.
_SLOW_SECONDS: Final = 0.1
_STRIKES: Final = 100

Timer = Callable[[], float]


class _Finder(Protocol):
    def spans(self, text: bytes) -> Iterator[Span]: ...


class _RegexFinder:
    """Finds any of the expressions of a rule."""

    def __init__(self, rule: RegexRule) -> None:
        expressions = rule.expressions
        whole = expressions[0] if len(expressions) == 1 else "|".join(f"(?:{each})" for each in expressions)
        self._expression = Expression(whole, own=True)

    def spans(self, text: bytes) -> Iterator[Span]:
        return self._expression.spans(text)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text of a part."""

    part: int
    content: bytes


class CompiledBundle:
    """Judges subjects by the rules of one bundle. Made off the loop: compiling takes milliseconds."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        finders = [_finder_of(rule) for rule in rules]
        sets: dict[tuple[str, ...], ExpressionSet] = {}
        self._plans: dict[tuple[Stage, Operation], _Plan] = {}
        for stage in Stage:
            for operation in Operation:
                chosen = [number for number, rule in enumerate(rules) if rule.applies(stage, operation)]
                self._plans[stage, operation] = _Plan(
                    [rules[number] for number in chosen], [finders[number] for number in chosen], sets
                )
        self._strikes = 0
        release_cache()

    @property
    def slow(self) -> bool:
        """True for a while after a verdict that took far too long: such a bundle should not hold up others.

        RE2 is linear in the text, but expressions can be made for which each byte costs a step per instruction.
        """
        return self._strikes > 0

    def judge(self, subject: Subject, *, timer: Timer) -> Judgement:
        """Judges one subject.

        Args:
            timer: gives seconds; only differences are used, for the times of the rules and for `slow`.
        """
        began = timer()
        judgement = self._plans[subject.stage, subject.operation].judge(subject, timer)
        if timer() - began > _SLOW_SECONDS:
            self._strikes = _STRIKES
        elif self._strikes:
            self._strikes -= 1
        return judgement


class _Plan:
    """The rules of one stage of one operation."""

    def __init__(
        self, rules: Sequence[Rule], finders: Sequence[_Finder | None], sets: dict[tuple[str, ...], ExpressionSet]
    ) -> None:
        self._rules = tuple(rules)
        self._finders = tuple(finders)
        self._searching = [number for number, finder in enumerate(finders) if finder is not None]
        patterns = tuple(_screen_of(self._rules[number]) for number in self._searching)
        if patterns not in sets:
            sets[patterns] = ExpressionSet(patterns)
        self._set = sets[patterns]
        self._passed: dict[int, tuple[RuleResult, ...]] = {}

    def judge(self, subject: Subject, timer: Timer) -> Judgement:
        began = timer()
        texts = [_Text(number, text) for number, part in enumerate(subject.parts) for text in texts_of(part)]
        suspects = self._suspects(texts) if self._searching else {}
        share = _microseconds(timer() - began) // max(1, len(self._searching))
        size = sum(len(text.content) for text in texts)
        measures = {**subject.measures, **own_measures(subject.stage, size, len(subject.parts))}
        results = list(self._all_passed(share))
        matched: list[RuleResult] = []
        redactors: list[Redactor] = []
        for number, rule in enumerate(self._rules):
            if isinstance(rule, KeywordRule | RegexRule) and number not in suspects:
                continue
            if rule.targets and not _aims_at(rule.targets, subject.target):
                continue
            looked = timer()
            rationale = self._rationale(number, rule, suspects.get(number, ()), measures)
            if not rationale:
                continue
            finder = self._finders[number]
            if rule.effective_action is Action.REDACT and finder is not None:
                redactors.append(Redactor(rule.name, finder.spans))
            elapsed = share + _microseconds(timer() - looked)
            result = RuleResult(rule.name, rule.severity_level, rule.effective_action, rationale, elapsed)
            results[number] = result
            matched.append(result)
        if not matched:
            return Judgement(results=self._all_passed(share), matched=())
        return Judgement(results=tuple(results), matched=tuple(matched), parts=_redacted(subject, redactors))

    def _suspects(self, texts: Iterable[_Text]) -> dict[int, list[_Text]]:
        """Gives the texts in which each rule may match."""
        suspects: dict[int, list[_Text]] = {}
        for text in texts:
            found = self._set.matches(text.content)
            numbers = self._searching if found is None else [self._searching[index] for index in found]
            for number in numbers:
                suspects.setdefault(number, []).append(text)
        return suspects

    def _rationale(self, number: int, rule: Rule, texts: Sequence[_Text], measures: dict[str, float]) -> str:
        """Says why a rule matches, empty when it does not."""
        match rule:
            case ResourceRule():
                return exceeded(rule, measures)
            case ThresholdRule():
                return crossed(rule, measures)
            case KeywordRule() | RegexRule():
                finder = self._finders[number]
                counts = {} if finder is None else _counted(finder, texts)
                return _places("keyword" if isinstance(rule, KeywordRule) else "pattern", counts) if counts else ""

    def _all_passed(self, elapsed_us: int) -> tuple[RuleResult, ...]:
        """Gives the results of rules that all passed. Kept for short times, which nearly all are."""
        known = self._passed.get(elapsed_us)
        if known is None:
            known = tuple(RuleResult(rule.name, rule.severity_level, None, "", elapsed_us) for rule in self._rules)
            if elapsed_us < _MOST_KEPT:
                self._passed[elapsed_us] = known
        return known


#: Times, in microseconds from 0 on, for which results are kept.
_MOST_KEPT: Final = 32


def _finder_of(rule: Rule) -> _Finder | None:
    match rule:
        case KeywordRule():
            return KeywordFinder(rule)
        case RegexRule():
            return _RegexFinder(rule)
        case _:
            return None


def _screen_of(rule: Rule) -> str:
    match rule:
        case KeywordRule():
            return screen_expression(rule)
        case RegexRule():
            return "|".join(f"(?:{each})" for each in rule.expressions)
        case _:
            return ""


def _counted(finder: _Finder, texts: Sequence[_Text]) -> dict[int, int]:
    """Counts matches by part, up to a bound."""
    counts: dict[int, int] = {}
    for text in texts:
        found = 0
        for _ in finder.spans(text.content):
            found += 1
            if found >= _MOST_COUNTED:
                break
        if found:
            counts[text.part] = counts.get(text.part, 0) + found
    return counts


def _places(what: str, counts: dict[int, int]) -> str:
    total = sum(counts.values())
    many = f"{total}+" if any(count >= _MOST_COUNTED for count in counts.values()) else str(total)
    named = ", ".join(f"parts[{part}]" for part in sorted(counts)[:_MOST_PLACES])
    more = f" and {len(counts) - _MOST_PLACES} more" if len(counts) > _MOST_PLACES else ""
    return f"{what} found {many} time{'' if total == 1 else 's'} in {named}{more}"


def _redacted(subject: Subject, redactors: Sequence[Redactor]) -> tuple[Part, ...] | None:
    if not redactors:
        return None
    redaction = Redaction(redactors)
    return tuple(redacted_part(part, redaction) for part in subject.parts)


def _aims_at(targets: Sequence[str], name: str) -> bool:
    return any(name.startswith(target[:-1]) if target.endswith("*") else name == target for target in targets)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
