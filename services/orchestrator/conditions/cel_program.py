"""Evaluates checked CEL: a tree of small functions over JSON values, every one of which pays for what it does.

Differs from the language where JSON does: numbers are JSON's, so whole ones and others mix; a map is walked in the
order of its keys; nothing is ever NaN or infinite. What has no JSON, or is not the same everywhere (times, bytes, time
zones), is refused when it is compiled.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportUnknownParameterType=false
# The messages of checked expressions come without stubs; values are JSON, which is open.

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import re2
from cel.expr import checked_pb2

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.cel_functions import (
    FUNCTIONS,
    Made,
    MadeMap,
    field_of,
    has,
    items_of,
    text_of,
    truth,
)
from services.orchestrator.conditions.errors import ExpressionFailed, ExpressionRefused, TooCostly

MAX_NESTED_LOOPS: Final = 3
MAX_PATTERN: Final = 200
_NOT_FALSE: Final = frozenset({"@not_strictly_false", "__not_strictly_false__"})
_PATTERN_MEMORY: Final = 1 << 20
#: Instructions of a compiled pattern that make each character of a text count once more.
_INSTRUCTIONS_PER_WEIGHT: Final = 64
_ARITHMETIC: Final = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_", "-_"})

#: JSON values.
Value = Any


class _Frame:
    """What names mean while an expression runs."""

    __slots__ = ("budget", "names")

    def __init__(self, names: dict[str, Value], budget: Budget) -> None:
        self.names = names
        self.budget = budget


class _Failed:
    """A failure as a value: `exists` and `all` go on after one, since a later item may decide."""

    __slots__ = ("error",)

    def __init__(self, error: ExpressionFailed) -> None:
        self.error = error


Step = Callable[[_Frame], Value]


class Program:
    """An expression, ready to run."""

    __slots__ = ("_run", "_steps", "names", "nodes")

    def __init__(self, run: Step, *, steps: int, names: frozenset[str], nodes: frozenset[str]) -> None:
        self._run = run
        self._steps = steps
        #: Variables that it reads.
        self.names = names
        #: Ids of the nodes that it reads.
        self.nodes = nodes

    def run(self, facts: Mapping[str, Value], budget: Budget) -> Value:
        """Gives its value as JSON. Raises: ExpressionFailed."""
        budget.spend(self._steps)
        return _settled(self._run(_Frame(dict(facts), budget)), budget)


def translate(checked: Any) -> Program:
    """Makes a program of a checked expression. Raises: ExpressionRefused."""
    translator = _Translator(checked)
    run, steps = translator.step(checked.expr)
    return Program(run, steps=steps, names=frozenset(translator.names), nodes=frozenset(translator.nodes))


class _Translator:
    """Translates the parts of one expression; each gives what runs, and how many steps one run of it takes."""

    def __init__(self, checked: Any) -> None:
        self._types = checked.type_map
        self._positions = checked.source_info.positions
        self.names: set[str] = set()
        self.nodes: set[str] = set()
        #: Variables of loops, innermost last, and the lists that loops build.
        self._local: list[str] = []
        self._loops = 0

    def step(self, expression: Any) -> tuple[Step, int]:
        kind = expression.WhichOneof("expr_kind")
        translate_kind = getattr(self, f"_{kind}", None)
        if translate_kind is None:
            raise self._refused(expression, "has a part that is not available here")
        return translate_kind(expression)

    def _refused(self, expression: Any, sentence: str) -> ExpressionRefused:
        # Positions are offsets from 0.
        return ExpressionRefused(sentence, at=self._positions.get(expression.id, -1) + 1)

    def _const_expr(self, expression: Any) -> tuple[Step, int]:
        constant = expression.const_expr
        kind = constant.WhichOneof("constant_kind")
        if kind in ("uint64_value", "bytes_value"):
            raise self._refused(expression, "has a literal that JSON does not know; use numbers and texts")
        value = None if kind == "null_value" else getattr(constant, kind)
        return (lambda _: value), 1

    def _ident_expr(self, expression: Any) -> tuple[Step, int]:
        name: str = expression.ident_expr.name
        if self._types[expression.id].WhichOneof("type_kind") == "type":
            raise self._refused(expression, "compares types, which is not available here")
        if name not in self._local:
            if name == "nodes":
                raise self._refused(expression, "must name the node, as in nodes.analyse.output")
            self.names.add(name)

        def read(frame: _Frame) -> Value:
            try:
                value = frame.names[name]
            except KeyError:
                raise ExpressionFailed(f"`{name}` is not known here") from None
            if type(value) is _Failed:
                raise value.error
            return value

        return read, 1

    def _select_expr(self, expression: Any) -> tuple[Step, int]:
        select = expression.select_expr
        operand, field, test = select.operand, cast(str, select.field), cast(bool, select.test_only)
        of_nodes = operand.WhichOneof("expr_kind") == "ident_expr" and operand.ident_expr.name == "nodes"
        if of_nodes and "nodes" not in self._local:
            self.nodes.add(field)
            self.names.add("nodes")
            return (lambda frame: field_of(frame.names["nodes"], field)), 2
        read, steps = self.step(operand)
        if test:
            return (lambda frame: has(read(frame), field)), steps + 1
        return (lambda frame: field_of(read(frame), field)), steps + 1

    def _list_expr(self, expression: Any) -> tuple[Step, int]:
        if expression.list_expr.optional_indices:
            raise self._refused(expression, "has optional items, which are not available here")
        parts = [self.step(element) for element in expression.list_expr.elements]
        runs = [run for run, _ in parts]
        return (lambda frame: Made([run(frame) for run in runs])), 1 + sum(steps for _, steps in parts)

    def _struct_expr(self, expression: Any) -> tuple[Step, int]:
        if expression.struct_expr.message_name:
            raise self._refused(expression, "makes a message; write a map, such as {'name': value}")
        entries = [(self.step(entry.map_key), self.step(entry.value)) for entry in expression.struct_expr.entries]
        pairs = [(key, value) for (key, _), (value, _) in entries]

        def make(frame: _Frame) -> Value:
            made = MadeMap()
            for key_of, value_of in pairs:
                key = key_of(frame)
                if not isinstance(key, str):
                    raise ExpressionFailed("a key of a map is no text")
                if key in made:
                    raise ExpressionFailed(f"the key `{key[:64]}` comes twice in a map")
                made[key] = value_of(frame)
            return made

        return make, 1 + sum(one + other for (_, one), (_, other) in entries)

    def _comprehension_expr(self, expression: Any) -> tuple[Step, int]:
        loop = expression.comprehension_expr
        range_of, steps = self.step(loop.iter_range)
        first, first_steps = self.step(loop.accu_init)
        self._loops += 1
        if self._loops > MAX_NESTED_LOOPS:
            raise self._refused(expression, f"nests loops deeper than {MAX_NESTED_LOOPS} levels")
        self._local += [loop.accu_var, loop.iter_var]
        goes_on, condition_steps = self._condition(loop.loop_condition)
        each, each_steps = self.step(loop.loop_step)
        self._local.pop()
        result, result_steps = self.step(loop.result)
        self._local.pop()
        self._loops -= 1
        item, so_far = cast(str, loop.iter_var), cast(str, loop.accu_var)
        round_steps = 1 + condition_steps + each_steps

        def run(frame: _Frame) -> Value:
            items = items_of(range_of(frame), frame.budget)
            names = frame.names
            outer = {name: names[name] for name in (item, so_far) if name in names}
            try:
                names[so_far] = first(frame)
                for one in items:
                    frame.budget.spend(round_steps)
                    if not goes_on(frame):
                        break
                    names[item] = one
                    try:
                        names[so_far] = each(frame)
                    except TooCostly:
                        raise
                    except ExpressionFailed as error:
                        names[so_far] = _Failed(error)
                return result(frame)
            finally:
                # What a loop around this one means by these names.
                for name in (item, so_far):
                    names.pop(name, None)
                names.update(outer)

        return run, steps + first_steps + result_steps + 1

    def _condition(self, expression: Any) -> tuple[Step, int]:
        """The condition of a loop: false ends it, and so does a failure that no later item can undo."""
        call = expression.call_expr
        if expression.WhichOneof("expr_kind") == "call_expr" and call.function in _NOT_FALSE:
            inner, steps = self.step(call.args[0])

            def not_false(frame: _Frame) -> bool:
                try:
                    return inner(frame) is not False
                except TooCostly:
                    raise
                except ExpressionFailed:
                    return True

            return not_false, steps
        return self.step(expression)

    def _call_expr(self, expression: Any) -> tuple[Step, int]:
        call = expression.call_expr
        name: str = call.function
        arguments = [*([call.target] if call.HasField("target") else ()), *call.args]
        if name in ("_&&_", "_||_"):
            return self._logic(arguments, decides=name == "_||_")
        if name == "_?_:_":
            return self._choice(arguments)
        if name == "_+_" and self._appends(arguments):
            return self._append(arguments)
        if name == "matches":
            return self._matches(expression, arguments)
        if name == "_/_" and all(self._whole(argument) for argument in arguments):
            name = "_//_"
        function = FUNCTIONS.get((name, len(arguments)))
        if function is None:
            plain = name.strip("_@")
            raise self._refused(expression, f"uses `{plain}`, which is not available here")
        return self._apply(function, arguments)

    def _apply(self, function: Callable[..., Value], arguments: list[Any]) -> tuple[Step, int]:
        parts = [self.step(argument) for argument in arguments]
        steps = 1 + sum(one for _, one in parts)
        if len(parts) == 1:
            ((only, _),) = parts
            return (lambda frame: function(only(frame), frame.budget)), steps
        (left, _), (right, _) = parts
        return (lambda frame: function(left(frame), right(frame), frame.budget)), steps

    def _whole(self, expression: Any) -> bool:
        """True for what is a whole number by its type alone, whatever the facts hold."""
        call = expression.call_expr
        if expression.WhichOneof("expr_kind") == "call_expr" and call.function in _ARITHMETIC:
            return all(self._whole(argument) for argument in call.args)
        kind = self._types[expression.id]
        return kind.WhichOneof("type_kind") == "primitive" and kind.primitive == checked_pb2.Type.INT64

    def _logic(self, arguments: list[Any], *, decides: bool) -> tuple[Step, int]:
        (left, left_steps), (right, right_steps) = (self.step(argument) for argument in arguments)

        def run(frame: _Frame) -> bool:
            try:
                first = truth(left(frame))
            except TooCostly:
                raise
            except ExpressionFailed as failed:
                # The other side may decide alone.
                if truth(right(frame)) is decides:
                    return decides
                raise failed from None
            return decides if first is decides else truth(right(frame))

        return run, 1 + left_steps + right_steps

    def _choice(self, arguments: list[Any]) -> tuple[Step, int]:
        (question, one), (yes, two), (no, three) = (self.step(argument) for argument in arguments)
        return (lambda frame: yes(frame) if truth(question(frame)) else no(frame)), 1 + one + max(two, three)

    def _appends(self, arguments: list[Any]) -> bool:
        """True for the step of `map` and `filter`: what is built so far, and one more item."""
        left, right = arguments
        return (
            left.WhichOneof("expr_kind") == "ident_expr"
            and left.ident_expr.name in self._local[::2]
            and left.ident_expr.name.startswith("@")
            and right.WhichOneof("expr_kind") == "list_expr"
        )

    def _append(self, arguments: list[Any]) -> tuple[Step, int]:
        (built, _), (more, steps) = (self.step(argument) for argument in arguments)

        def run(frame: _Frame) -> Value:
            # Nobody else holds the list that is being built, so it grows in place.
            so_far = built(frame)
            so_far.extend(more(frame))
            return so_far

        return run, steps + 1

    def _matches(self, expression: Any, arguments: list[Any]) -> tuple[Step, int]:
        subject_of, steps = self.step(arguments[0])
        pattern = arguments[1]
        if pattern.WhichOneof("expr_kind") != "const_expr":
            raise self._refused(expression, "has a pattern that is no literal; write it as a text")
        written: str = pattern.const_expr.string_value
        if len(written) > MAX_PATTERN:
            raise self._refused(expression, f"has a pattern of more than {MAX_PATTERN} characters")
        options = re2.Options()
        options.max_mem, options.log_errors = _PATTERN_MEMORY, False
        try:
            compiled: Any = re2.compile(written, options=options)
        except re2.error as error:
            raise self._refused(expression, f"has a pattern that RE2 refuses: {_words(error)}") from None

        # What a character costs grows with the automaton, once that is too big to be kept.
        weight = 1 + compiled.programsize // _INSTRUCTIONS_PER_WEIGHT

        def run(frame: _Frame) -> bool:
            text = text_of(subject_of(frame))
            frame.budget.spend_text(len(text) * weight)
            return compiled.search(text) is not None

        return run, steps + 2


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _settled(value: Value, budget: Budget) -> Value:
    """Writes what an expression made as plain JSON; what it was given is passed on as it is."""
    match value:
        case Made():
            budget.spend(len(value))
            return [_inside(part, budget) for part in value]
        case MadeMap():
            budget.spend(len(value))
            return {key: _inside(part, budget) for key, part in value.items()}
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _inside(value: Value, budget: Budget) -> Value:
    # What is given once may be written many times over.
    if not isinstance(value, Made | MadeMap):
        budget.spend_value(value)
    return _settled(value, budget)
