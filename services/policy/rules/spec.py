"""A bundle as people write it. The one model for files; everything else here reads it and never changes it."""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.policy.domain.subject import Operation, Stage
from services.policy.domain.verdict import Action, Severity

MAX_RULES: Final = 200
MAX_KEYWORDS: Final = 500
MAX_PATTERNS: Final = 50

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
MeasureName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Keyword = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]
Target = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]

StageName = Literal["before", "during", "after"]
OperationName = Literal["generate", "invoke_tool", "remember"]
ActionName = Literal["block", "redact", "warn"]

_STAGES: Final[tuple[StageName, ...]] = ("before", "during", "after")
_OPERATIONS: Final[tuple[OperationName, ...]] = ("generate", "invoke_tool", "remember")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class _Rule(_Model):
    """What every rule says."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=500)] = ""
    severity: Literal["minor", "major", "severe"] = "major"
    #: Without one, a severe rule blocks and any other warns.
    action: ActionName | None = None
    stages: Annotated[list[StageName], Field(min_length=1, max_length=3)] = list(_STAGES)
    operations: Annotated[list[OperationName], Field(min_length=1, max_length=3)] = list(_OPERATIONS)
    #: Names of tools or models; a trailing `*` stands for any end. Empty: all.
    targets: Annotated[list[Target], Field(max_length=50)] = []

    @property
    def severity_level(self) -> Severity:
        return Severity[self.severity.upper()]

    @property
    def effective_action(self) -> Action:
        if self.action is None:
            return Action.BLOCK if self.severity == "severe" else Action.WARN
        return Action[self.action.upper()]

    def applies(self, stage: Stage, operation: Operation) -> bool:
        """Tells whether the rule looks at this stage of this operation."""
        return stage.name.lower() in self.stages and operation.name.lower() in self.operations


class KeywordParams(_Model):
    """How keywords are compared."""

    #: `word`: not inside a longer word. `substring`: anywhere.
    match: Literal["word", "substring"] = "word"
    case_sensitive: bool = False


class KeywordRule(_Rule):
    """Matches where one of some words or phrases stands."""

    type: Literal["keyword"]
    keywords: Annotated[list[Keyword], Field(min_length=1, max_length=MAX_KEYWORDS)]
    params: KeywordParams = KeywordParams()


class RegexRule(_Rule):
    """Matches where one of some RE2 expressions does."""

    type: Literal["regex"]
    pattern: Pattern | None = None
    patterns: Annotated[list[Pattern], Field(min_length=1, max_length=MAX_PATTERNS)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.pattern is None) == (self.patterns is None):
            raise ValueError("needs either `pattern` or `patterns`")
        return self

    @property
    def expressions(self) -> tuple[str, ...]:
        return (self.pattern,) if self.pattern is not None else tuple(self.patterns or ())


class _MeasureRule(_Rule):
    @model_validator(mode="after")
    def _nothing_to_redact(self) -> Self:
        if self.action == "redact":
            raise ValueError("`action: redact` needs matched text, which a number has not; use block or warn")
        return self


class ResourceRule(_MeasureRule):
    """Matches when a measure is above its limit."""

    type: Literal["resource"]
    #: Limit by measure, such as `input_tokens_bound: 100000`.
    params: Annotated[dict[MeasureName, Number], Field(min_length=1, max_length=32)]


class ThresholdParams(_Model):
    """What is compared with what."""

    measure: MeasureName
    operator: Literal[">", ">=", "<", "<=", "==", "!="]
    value: Number


class ThresholdRule(_MeasureRule):
    """Matches when the comparison holds."""

    type: Literal["numerical_threshold"]
    params: ThresholdParams


Rule = KeywordRule | RegexRule | ResourceRule | ThresholdRule

RULE_TYPES: Final[dict[str, type[KeywordRule] | type[RegexRule] | type[ResourceRule] | type[ThresholdRule]]] = {
    "keyword": KeywordRule,
    "regex": RegexRule,
    "resource": ResourceRule,
    "numerical_threshold": ThresholdRule,
}


class Head(_Model):
    """What a bundle says besides its rules."""

    name: Name | None = None
    version: Annotated[str, StringConstraints(max_length=32)] | None = None
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
