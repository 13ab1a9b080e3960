"""From the source of a bundle to its rules, or to everything that is wrong with it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar, cast

import rfc8785
from pydantic import BaseModel, ValidationError

from services.meshkit.documents.source import Bounds, Path, Source, Unreadable, read_source, written
from services.policy.domain.errors import BundleEmpty, BundleFaulty, Fault, RegexRefused
from services.policy.rules.engine import MAX_BUNDLE_PROGRAM, Refused, program_size
from services.policy.rules.keyword import finder_expression, screen_expression
from services.policy.rules.spec import MAX_RULES, RULE_TYPES, Head, KeywordRule, RegexRule, Rule

#: Largest source.
BOUNDS: Final = Bounds(size_bytes=256 * 1024, depth=16, values=20_000, noun="bundle")
#: Faults that are looked for before giving up.
_MOST_FAULTS: Final = 200

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedBundle:
    """The rules of a bundle, all valid."""

    #: As the source names it; None when it does not.
    name: str | None
    version: str | None
    rules: tuple[Rule, ...]
    #: SHA-256 of the canonical rules, hex: the same for sources that differ in layout only.
    digest: str


def parse_bundle(source: str) -> ParsedBundle:
    """Reads the source of a bundle.

    Raises: BundleFaulty (all faults at once), RegexRefused (when that is all that is wrong), BundleEmpty.
    """
    try:
        read = read_source(source, BOUNDS)
    except Unreadable as error:
        raise BundleFaulty(
            [
                Fault(field=_field_of(fault.path), line=fault.place.line, sentence=fault.sentence)
                for fault in error.faults
            ]
        ) from error
    return _Parser(read).parse()


class _Parser:
    def __init__(self, read: Source) -> None:
        self._read = read
        self._faults: list[Fault] = []

    def parse(self) -> ParsedBundle:
        content, items = self._outline()
        head = self._head(content)
        rules = [rule for index, item in enumerate(items) if (rule := self._rule(index, item)) is not None]
        self._check_names(items)
        self._check_expressions(items, rules)
        if self._faults:
            faults = sorted(self._faults[:_MOST_FAULTS], key=lambda fault: fault.line)
            raise RegexRefused(faults) if all(fault.regex for fault in faults) else BundleFaulty(faults)
        assert head is not None
        plain = [rule for _, rule in rules]
        return ParsedBundle(name=head.name, version=head.version, rules=tuple(plain), digest=_digest(plain))

    def _outline(self) -> tuple[dict[str, object], list[object]]:
        """Gives the whole and its list of rules.

        Raises: BundleEmpty: there are none. BundleFaulty: the source has another shape.
        """
        value = self._read.value
        if value is None:
            raise BundleEmpty
        if not isinstance(value, dict):
            raise BundleFaulty([self._fault((), "must be a mapping with `rules:`")])
        content = cast(dict[str, object], value)
        rules = content.get("rules")
        if rules is None or rules == []:
            raise BundleEmpty
        if not isinstance(rules, list):
            raise BundleFaulty([self._fault(("rules",), "must be a list of rules")])
        items = cast(list[object], rules)
        if len(items) > MAX_RULES:
            raise BundleFaulty([self._fault(("rules",), f"has {len(items)} rules; at most {MAX_RULES} are taken")])
        return content, items

    def _head(self, content: dict[str, object]) -> Head | None:
        return self._validated(Head, {key: value for key, value in content.items() if key != "rules"}, (), "")

    def _rule(self, index: int, item: object) -> tuple[int, Rule] | None:
        path: Path = ("rules", index)
        if not isinstance(item, dict):
            self._faults.append(self._fault(path, "must be a mapping"))
            return None
        fields = cast(dict[str, object], item)
        kind = fields.get("type")
        model = RULE_TYPES.get(kind) if isinstance(kind, str) else None
        if model is None:
            what = "is required" if kind is None else "is no type of rule here"
            known = ", ".join(RULE_TYPES)
            self._faults.append(self._fault((*path, "type"), f"{what}; use one of {known}", _name_of(fields)))
            return None
        rule = self._validated(model, fields, path, _name_of(fields))
        return None if rule is None else (index, rule)

    def _validated(self, model: type[M], fields: dict[str, object], path: Path, rule: str) -> M | None:
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                place = (*path, *problem["loc"])
                self._faults.append(self._fault(place, _sentence(cast(dict[str, Any], problem)), rule))
            return None

    def _check_names(self, items: list[object]) -> None:
        first: dict[str, int] = {}
        for index, item in enumerate(items):
            name = _name_of(item)
            if name and first.setdefault(name, index) != index:
                line = self._read.place_of(("rules", first[name])).line
                sentence = f"is taken by the rule on line {line}; names are unique in a bundle"
                self._faults.append(self._fault(("rules", index, "name"), sentence, name))

    def _check_expressions(self, items: list[object], rules: list[tuple[int, Rule]]) -> None:
        total = 0
        for index, rule in rules:
            for path, expression in _expressions(index, rule):
                try:
                    if isinstance(rule, KeywordRule):
                        program_size(finder_expression(rule), own=True)
                    total += program_size(expression, own=isinstance(rule, KeywordRule))
                except Refused as error:
                    refusal = f"RE2 refuses {_what(rule)}: {error.why}"
                    self._faults.append(self._fault(path, refusal, rule.name, regex=True))
        if total > MAX_BUNDLE_PROGRAM:
            sentence = f"all keywords and patterns together are too large ({total} of {MAX_BUNDLE_PROGRAM} RE2 steps)"
            self._faults.append(self._fault(("rules",), f"{sentence}; split the bundle or shorten them"))

    def _fault(self, path: Path, sentence: str, rule: str = "", *, regex: bool = False) -> Fault:
        line = self._read.place_of(path).line
        return Fault(field=_field_of(path), line=line, rule=rule, sentence=sentence, regex=regex)


def _field_of(path: Path) -> str:
    return written(path, "source")


def _expressions(index: int, rule: Rule) -> Iterator[tuple[Path, str]]:
    match rule:
        case KeywordRule():
            yield ("rules", index, "keywords"), screen_expression(rule)
        case RegexRule(pattern=str(pattern)):
            yield ("rules", index, "pattern"), pattern
        case RegexRule():
            for position, pattern in enumerate(rule.expressions):
                yield ("rules", index, "patterns", position), pattern
        case _:
            return


def _what(rule: Rule) -> str:
    return "the keywords, which are too many or too long" if isinstance(rule, KeywordRule) else "the pattern"


def _name_of(item: object) -> str:
    name = cast(dict[str, object], item).get("name") if isinstance(item, dict) else None
    return name[:63] if isinstance(name, str) and name.isprintable() else ""


def _sentence(problem: dict[str, Any]) -> str:
    match problem["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is no field that is known here; remove it or mend its name"
        case "string_type":
            return "must be text; put it in quotes"
        case "string_pattern_mismatch":
            return f"must match {problem['ctx']['pattern']}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case _:
            message = str(problem["msg"])
            return message[0].lower() + message[1:]


def _digest(rules: list[Rule]) -> str:
    canonical = [json.loads(rule.model_dump_json(exclude_none=True)) for rule in rules]
    return sha256(rfc8785.dumps(canonical)).hexdigest()
