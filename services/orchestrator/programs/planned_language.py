"""The plan language, version 1: what a plan may look like, checked whole before its first step.

A plan is a list of steps, JSON. Each step is one of

    call      a tool, `with` arguments; `may_fail` turns its failure into a value (`ok`, `reason`)
    extract   typed `fields` out of texts, by a model without tools
    choose    one of a closed list, by a model without tools
    if        then / else, on a comparison of values; `gives` one of two values
    map       steps for each item of a list, at most so many; `gives` a list
    repeat    steps until a comparison holds, at most so often; `carry` takes values into the next round
    replan    asks the planner for the rest of the plan, showing it the values named
    answer    what the user reads

Source: docs/decisions/0010-planned-turns.md
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from services.orchestrator.programs.planned_kinds import Kind, KindUnknown, kind_of
from services.orchestrator.programs.planned_plan import (
    Answer,
    Call,
    Choose,
    Comparison,
    Extract,
    If,
    Map,
    Plan,
    PlanNotTaken,
    Repeat,
    Replan,
    Step,
    nested,
)
from services.orchestrator.programs.planned_references import MAX_REFERENCES, NAME, name_in, references
from services.orchestrator.programs.values import Json

VERSION: Final = 1
MAX_PLAN_CHARACTERS: Final = 64 * 1024
MAX_STEPS: Final = 200
MAX_DEPTH: Final = 4
MAX_ITEMS: Final = 1_000
MAX_ROUNDS: Final = 100
MAX_FIELDS: Final = 32
#: Templates in one step: arguments, texts to read, comparisons, values to carry or to show.
MAX_TEMPLATES: Final = 64
MAX_SENTENCE: Final = 200
#: The round of a loop, which no step may take for its own name.
ROUND: Final = "turn"
COMPARISONS: Final = frozenset({"equal", "differs", "above", "below"})
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "call": frozenset({"as", "call", "with", "may_fail"}),
    "extract": frozenset({"as", "extract", "fields"}),
    "choose": frozenset({"as", "choose", "by", "reading", "show"}),
    "if": frozenset({"as", "if", "then", "else", "gives"}),
    "map": frozenset({"as", "map", "item", "at_most", "do", "gives"}),
    "repeat": frozenset({"as", "repeat", "carry", "do", "until", "gives"}),
    "replan": frozenset({"replan", "reason"}),
    "answer": frozenset({"answer"}),
}
_PAIR: Final = 2


def plan_of(written: Json, *, tools: Iterable[str], known: Iterable[str]) -> Plan:
    """Checks a plan whole: shapes, tools, bounds, and that every name is bound before it is used.

    Args:
        known: names that are bound before its first step.
    Raises: PlanNotTaken.
    """
    reader = _Reader(frozenset(tools))
    if not isinstance(written, list) or not written:
        raise PlanNotTaken("PLAN_EMPTY")
    steps, _ = reader.steps(cast("list[Json]", written), frozenset(known), "", depth=1)
    if not any(isinstance(step, Answer | Replan) for step in nested(steps)):
        raise PlanNotTaken("PLAN_WITHOUT_ANSWER")
    return Plan(steps=steps, count=reader.count, written=cast("list[Json]", written))


class _Reader:
    """Reads steps, and counts them."""

    def __init__(self, tools: frozenset[str]) -> None:
        self._tools = tools
        self.count = 0

    def steps(
        self, written: Json, known: frozenset[str], path: str, *, depth: int
    ) -> tuple[tuple[Step, ...], frozenset[str]]:
        """Reads steps in a row. Returns: them, and the names that are bound after the last."""
        if depth > MAX_DEPTH:
            raise PlanNotTaken("PLAN_TOO_DEEP", path)
        found: list[Step] = []
        for at, one in enumerate(_list_of(written, path)):
            self.count += 1
            if self.count > MAX_STEPS:
                raise PlanNotTaken("PLAN_TOO_LONG", path)
            step = self._step(_object_of(one, f"{path}#{at}"), known, path, at, depth)
            found.append(step)
            if step.name:
                known |= {step.name}
        return tuple(found), known

    def _step(self, one: Mapping[str, Json], known: frozenset[str], path: str, at: int, depth: int) -> Step:
        verbs = [key for key in one if key in _KEYS]
        # `if` and `map` hold no other verb as a key, so there is exactly one.
        verb = verbs[0] if len(verbs) == 1 else ""
        if not verb or one.keys() - _KEYS[verb]:
            raise PlanNotTaken("PLAN_STEP_UNKNOWN", f"{path}#{at}")
        name = _new_name(one["as"], known, f"{path}#{at}") if "as" in one else ""
        key = name or f"#{at}"
        place = f"{path}{key}"
        common = _Common(name, key, place, known, depth)
        match verb:
            case "call":
                return self._call(one, common)
            case "extract":
                return _extract(one, common)
            case "choose":
                return _choose(one, common)
            case "if":
                return self._if(one, common)
            case "map":
                return self._map(one, common)
            case "repeat":
                return self._repeat(one, common)
            case "replan":
                return _replan(one, common)
            case _:
                return Answer(key=key, template=common.template(one["answer"]))

    def _call(self, one: Mapping[str, Json], common: "_Common") -> Call:
        tool, may_fail = one["call"], one.get("may_fail", False)
        if not isinstance(tool, str) or tool not in self._tools:
            raise PlanNotTaken("PLAN_TOOL_UNKNOWN", common.place)
        if not isinstance(may_fail, bool):
            raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
        arguments = _object_of(one.get("with", {}), common.place)
        if len(arguments) > MAX_TEMPLATES:
            raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
        for template in arguments.values():
            common.template(template)
        return Call(name=common.name, key=common.key, tool=tool, arguments=arguments, may_fail=may_fail)

    def _if(self, one: Mapping[str, Json], common: "_Common") -> If:
        conditions = common.comparisons(one["if"])
        then, after_then = self._inside(one.get("then", []), common, "then")
        otherwise, after_else = self._inside(one.get("else", []), common, "else")
        gives = None
        if "gives" in one:
            pair = _list_of(one["gives"], common.place)
            if len(pair) != _PAIR:
                raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
            gives = common.template(pair[0], after_then), common.template(pair[1], after_else)
        return If(name=common.name, key=common.key, conditions=conditions, then=then, otherwise=otherwise, gives=gives)

    def _map(self, one: Mapping[str, Json], common: "_Common") -> Map:
        over = common.one_or_many(one["map"])
        at_most = _bound(one.get("at_most"), MAX_ITEMS, common.place)
        item = _new_name(one.get("item"), common.known, common.place)
        do, after = self._inside(one.get("do", []), common, "do", also={item})
        gives = common.template(one.get("gives"), after)
        return Map(name=common.name, key=common.key, over=over, item=item, at_most=at_most, do=do, gives=gives)

    def _repeat(self, one: Mapping[str, Json], common: "_Common") -> Repeat:
        at_most = _bound(one["repeat"], MAX_ROUNDS, common.place)
        carry: dict[str, tuple[Json, Json]] = {}
        for name, both in _object_of(one.get("carry", {}), common.place).items():
            pair = _list_of(both, common.place)
            if len(pair) != _PAIR:
                raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
            carry[_new_name(name, common.known, common.place)] = common.template(pair[0]), pair[1]
        if len(carry) > MAX_TEMPLATES:
            raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
        do, after = self._inside(one.get("do", []), common, "do", also={*carry, ROUND})
        for _, following in carry.values():
            common.template(following, after)
        return Repeat(
            name=common.name,
            key=common.key,
            at_most=at_most,
            carry=carry,
            do=do,
            until=common.comparisons(one.get("until"), after),
            gives=common.template(one.get("gives"), after),
        )

    def _inside(
        self, written: Json, common: "_Common", key: str, *, also: Iterable[str] = ()
    ) -> tuple[tuple[Step, ...], frozenset[str]]:
        known = common.known | frozenset(also)
        return self.steps(written, known, f"{common.place}/{key}/", depth=common.depth + 1)


@dataclass(frozen=True, slots=True)
class _Common:
    """What the reading of every step needs."""

    name: str
    key: str
    place: str
    known: frozenset[str]
    depth: int

    def template(self, template: Json, known: frozenset[str] | None = None) -> Json:
        """Gives a template back if every name in it is bound."""
        found = references(template)
        if len(found) > MAX_REFERENCES:
            raise PlanNotTaken("PLAN_REFERENCES_TOO_MANY", self.place)
        names = self.known if known is None else known
        if any(name_in(reference) not in names for reference in found):
            raise PlanNotTaken("PLAN_NAME_UNKNOWN", self.place)
        return template

    def templates(self, written: Json) -> tuple[Json, ...]:
        """Reads a row of templates."""
        found = _list_of(written, self.place)
        if not 1 <= len(found) <= MAX_TEMPLATES:
            raise PlanNotTaken("PLAN_STEP_MALFORMED", self.place)
        self.template(found)
        return tuple(found)

    def one_or_many(self, written: Json) -> str | tuple[Json, ...]:
        """Reads a reference to a list, or a list without references."""
        if isinstance(written, str):
            return self.reference(written)
        found = _list_of(written, self.place)
        if len(found) > MAX_ITEMS or references(found):
            raise PlanNotTaken("PLAN_STEP_MALFORMED", self.place)
        return tuple(found)

    def reference(self, written: Json) -> str:
        """Reads one reference."""
        self.template(written)
        if not isinstance(written, str) or references(written) != (written,):
            raise PlanNotTaken("PLAN_STEP_MALFORMED", self.place)
        return written

    def comparisons(self, written: Json, known: frozenset[str] | None = None) -> tuple[Comparison, ...]:
        """Reads a condition: one comparison, or all that have to hold."""
        condition = _object_of(written, self.place)
        found = _list_of(condition["all"], self.place) if set(condition) == {"all"} else [condition]
        if not 1 <= len(found) <= MAX_TEMPLATES:
            raise PlanNotTaken("PLAN_STEP_MALFORMED", self.place)
        return tuple(self._comparison(_object_of(one, self.place), known) for one in found)

    def _comparison(self, one: Mapping[str, Json], known: frozenset[str] | None) -> Comparison:
        how = one.get("is")
        if not isinstance(how, str) or how not in COMPARISONS:
            raise PlanNotTaken("PLAN_COMPARISON_UNKNOWN", self.place)
        if set(one) != {"value", "is", "than"}:
            raise PlanNotTaken("PLAN_STEP_MALFORMED", self.place)
        return Comparison(how, self.template(one["value"], known), self.template(one["than"], known))


def _extract(one: Mapping[str, Json], common: _Common) -> Extract:
    fields = _object_of(one.get("fields"), common.place)
    if not 1 <= len(fields) <= MAX_FIELDS:
        raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
    kinds: dict[str, Kind] = {}
    for name, kind in fields.items():
        try:
            kinds[_word(name, common.place)] = kind_of(kind)
        except KindUnknown:
            raise PlanNotTaken("PLAN_TYPE_UNKNOWN", common.place) from None
    return Extract(name=common.name, key=common.key, reading=common.templates(one["extract"]), fields=kinds)


def _choose(one: Mapping[str, Json], common: _Common) -> Choose:
    options = common.one_or_many(one["choose"])
    show = one.get("show", "")
    if not options or not isinstance(show, str):
        raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
    by = _sentence(one.get("by", ""), common.place)
    if show:
        _word(show, common.place)
    reading = common.templates(one.get("reading"))
    return Choose(name=common.name, key=common.key, options=options, by=by, reading=reading, show=show)


def _replan(one: Mapping[str, Json], common: _Common) -> Replan:
    shown = _object_of(one["replan"], common.place)
    if len(shown) > MAX_FIELDS:
        raise PlanNotTaken("PLAN_STEP_MALFORMED", common.place)
    named = {_word(name, common.place): common.reference(reference) for name, reference in shown.items()}
    return Replan(key=common.key, shown=named, reason=_sentence(one.get("reason", ""), common.place))


def _object_of(written: Json, place: str) -> dict[str, Json]:
    if not isinstance(written, dict):
        raise PlanNotTaken("PLAN_STEP_MALFORMED", place)
    return cast("dict[str, Json]", written)


def _list_of(written: Json, place: str) -> list[Json]:
    if not isinstance(written, list):
        raise PlanNotTaken("PLAN_STEP_MALFORMED", place)
    return cast("list[Json]", written)


def _bound(written: Json, most: int, place: str) -> int:
    if not isinstance(written, int) or isinstance(written, bool) or not 1 <= written <= most:
        raise PlanNotTaken("PLAN_BOUND_WRONG", place)
    return written


def _sentence(written: Json, place: str) -> str:
    if not isinstance(written, str) or len(written) > MAX_SENTENCE:
        raise PlanNotTaken("PLAN_STEP_MALFORMED", place)
    return written


def _word(written: Json, place: str) -> str:
    """Gives a key that a reference can name."""
    if not isinstance(written, str) or NAME.fullmatch(written) is None:
        raise PlanNotTaken("PLAN_NAME_MALFORMED", place)
    return written


def _new_name(written: Json, known: frozenset[str], place: str) -> str:
    name = _word(written, place)
    if name in known or name == ROUND:
        raise PlanNotTaken("PLAN_NAME_TWICE", place)
    return name
