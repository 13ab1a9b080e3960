"""The plan language, version 1: what a plan may look like, checked before its first step.

A plan is a list of steps. Each step is one of

    call      a tool, `with` arguments; `may_fail` turns its failure into a value (`ok`, `reason`)
    extract   typed `fields` out of texts, by a model without tools
    choose    one of a closed list, by a model without tools
    if        then / else, on a comparison of values; `gives` one of two values
    map       steps for each item of a list, at most so many; `gives` a list
    repeat    steps until a comparison holds, at most so often; `carry` takes values into the next round
    replan    asks the planner for the rest of the plan, showing it the values named
    answer    what the user reads
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from values import references

VERSION: Final = 1
MAX_STEPS, MAX_DEPTH, MAX_ITEMS, MAX_TURNS = 200, 4, 1_000, 100
STRAIGHT: Final = frozenset({"call", "extract", "answer"})
#: Constructs by what they add, in the order in which the experiment adds them.
CONTROL: Final = ("if", "map", "choose", "repeat", "replan")
VERBS: Final = STRAIGHT | set(CONTROL)
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


class PlanRefused(Exception):
    def __init__(self, reason: str, place: str) -> None:
        super().__init__(f"{reason} at {place!r}")
        self.reason, self.place = reason, place


def verb_of(step: Mapping[str, Any]) -> str:
    return next((key for key in step if key in VERBS), "")


def steps_of(plan: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Walks over all steps, nested ones included."""
    for step in plan:
        yield step
        for inside in ("then", "else", "do"):
            yield from steps_of(step.get(inside, ()))


def constructs(plan: list[dict[str, Any]]) -> frozenset[str]:
    """Names what a plan needs beyond calls in a row."""
    return frozenset(verb_of(step) for step in steps_of(plan)) - STRAIGHT


def check(plan: Any, *, tools: Mapping[str, Any], known: Iterable[str], allowed: frozenset[str] = VERBS) -> int:
    """Checks a plan whole: shapes, tools, arguments, bounds, and that every name is bound before it is used.

    Returns: how many steps it has. Raises: PlanRefused.
    """
    if not isinstance(plan, list) or not plan:
        raise PlanRefused("PLAN_EMPTY", "")
    try:
        count = sum(1 for _ in steps_of(plan))
        if count > MAX_STEPS:
            raise PlanRefused("PLAN_TOO_LONG", "")
        _check_steps(plan, set(known), "", tools, allowed, depth=1)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PlanRefused("PLAN_STEP_MALFORMED", "") from None
    return count


def place_of(step: Mapping[str, Any], at: int) -> str:
    return str(step.get("as", f"#{at}"))


def _check_steps(
    steps: list[Any], known: set[str], path: str, tools: Mapping[str, Any], allowed: frozenset[str], *, depth: int
) -> set[str]:
    """Checks steps in a row. Returns: the names that are bound after the last."""
    if depth > MAX_DEPTH:
        raise PlanRefused("PLAN_TOO_DEEP", path)
    for at, step in enumerate(steps):
        place = f"{path}{place_of(step, at)}"
        verb = verb_of(step)
        if not verb or step.keys() - _KEYS[verb]:
            raise PlanRefused("PLAN_STEP_UNKNOWN", place)
        if verb not in allowed:
            raise PlanRefused("PLAN_CONSTRUCT_NOT_ALLOWED", place)
        _check_step(step, verb, known, place, tools, allowed, depth)
        if "as" in step:
            if step["as"] in known:
                raise PlanRefused("PLAN_NAME_TWICE", place)
            known.add(step["as"])
    return known


def _check_step(
    step: Mapping[str, Any],
    verb: str,
    known: set[str],
    place: str,
    tools: Mapping[str, Any],
    allowed: frozenset[str],
    depth: int,
) -> None:
    def names(template: Any, also: Iterable[str] = ()) -> None:
        for reference in references(template):
            if reference[1:].split(".")[0].split("[")[0] not in known | set(also):
                raise PlanRefused("PLAN_NAME_UNKNOWN", place)

    def inside(key: str, also: Iterable[str] = ()) -> set[str]:
        return _check_steps(step.get(key, []), known | set(also), f"{place}/{key}/", tools, allowed, depth=depth + 1)

    match verb:
        case "call":
            if step["call"] not in tools:
                raise PlanRefused("PLAN_TOOL_UNKNOWN", place)
            names(step.get("with", {}))
        case "extract":
            names(step["extract"])
        case "choose":
            names(step["choose"])
            names(step["reading"])
        case "if":
            for value in conditions(step["if"]):
                names([value["value"], value["than"]])
            arms = inside("then") | inside("else")
            names(step.get("gives", []), also=arms)
        case "map":
            if not 1 <= step["at_most"] <= MAX_ITEMS:
                raise PlanRefused("PLAN_BOUND_WRONG", place)
            names(step["map"])
            names(step.get("gives"), also=inside("do", also=[step["item"]]))
        case "repeat":
            if not 1 <= step["repeat"] <= MAX_TURNS:
                raise PlanRefused("PLAN_BOUND_WRONG", place)
            carried = step.get("carry", {})
            after = inside("do", also=[*carried, "turn"])
            names([first for first, _ in carried.values()])
            names([following for _, following in carried.values()], also=after)
            names([[value["value"], value["than"]] for value in conditions(step["until"])], also=after)
            names(step.get("gives"), also=after)
        case "replan":
            names(step["replan"])
        case _:
            names(step["answer"])


def conditions(condition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Lists the comparisons of a condition: one alone, or all that have to hold."""
    found = condition.get("all", [condition])
    if any(one.get("is") not in COMPARISONS for one in found):
        raise PlanRefused("PLAN_COMPARISON_UNKNOWN", "")
    return found


def alternatives(kind: str) -> int:
    """Says how many values a type has, 0 when it is open."""
    if kind == "bool":
        return 2
    return len(_inside(kind)) if kind.startswith("enum(") else 0


def fits(data: Any, kind: str) -> bool:
    """Says whether a value that a model extracted is of its type."""
    match kind.split("(")[0]:
        case "bool":
            return isinstance(data, bool)
        case "integer":
            low, high = map(int, _inside(kind))
            return isinstance(data, int) and not isinstance(data, bool) and low <= data <= high
        case "enum":
            return data in _inside(kind)
        case "date":
            return isinstance(data, str) and len(data) == 10 and data.replace("-", "").isdecimal()
        case "text":
            return isinstance(data, str) and len(data) <= int(_inside(kind)[0])
        case _:
            return False


def _inside(kind: str) -> list[str]:
    return kind[kind.index("(") + 1 : -1].split(",")
