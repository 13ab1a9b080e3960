"""What can be wrong with an expression: when it is written, and when it is asked."""


class ExpressionRefused(Exception):
    """An expression cannot be taken. Carries what is wrong, and where.

    Args:
        sentence: what is wrong and what to do.
        at: character of the expression, from 1; 0 for the whole.
        typed: True when it compiles, and does not fit the types of what it names.
        node: the node that it names and that does not exist.
    """

    def __init__(self, sentence: str, *, at: int = 0, typed: bool = False, node: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.at = at
        self.typed = typed
        self.node = node


def unknown_node(name: str, *, at: int) -> ExpressionRefused:
    """Says that an expression names a node that does not exist."""
    return ExpressionRefused(f"names `{name[:64]}`, which is no node", at=at, typed=True, node=name)


class ExpressionFailed(Exception):
    """An expression has no value for these facts. Carries why, in a sentence that is the same for the same facts."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class TooCostly(ExpressionFailed):
    """An expression was stopped: it needs more work than one may, or than is left of what all may do at once."""

    def __init__(self, most: int, *, together: bool = False) -> None:
        needs = f"needs, with those asked before it, more than {most} steps at once" if together else None
        needs = needs or f"needs more than {most} steps"
        super().__init__(f"{needs}; make its lists shorter, or do this work in a step")
