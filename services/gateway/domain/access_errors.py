"""What relations refuse."""

from services.meshkit.core.errors import Conflict, Exhausted, Invalid


class ModelInvalid(Invalid):
    """The text is no authorization model. The line and column say where."""

    reason = "MODEL_INVALID"

    def __init__(self, sentence: str, *, line: int, column: int) -> None:
        super().__init__("model", f"line {line}, column {column}: {sentence}", line=line, column=column)
        self.line = line
        self.column = column


class CheckTooDeep(Exhausted):
    """The way from the user to the object is longer, or branches wider, than a check follows. Make it shorter."""

    reason = "CHECK_TOO_DEEP"

    def __init__(self, question: str, *, limit: str) -> None:
        super().__init__(
            f"no answer whether {question}: more than {limit}; flatten the relations between them",
            question=question,
            limit=limit,
        )


class RelationsChangedMeanwhile(Conflict):
    """The OpenFGA server changed the same relations meanwhile. Send the request again."""

    reason = "RELATIONS_CHANGED"

    def __init__(self) -> None:
        super().__init__("somebody else changed the same relations meanwhile; send the request again")
