"""LinUCB: an arm is worth what a ridge regression on what is asked says, and a bonus for what is not known yet.

For each arm, from the features x of the calls that it answered and their rewards r: A = I + Σ x xᵀ, b = Σ r x. For a
call x it is worth θᵀx + ALPHA √(xᵀ A⁻¹ x) with θ = A⁻¹ b. Both sums are additive: replicas add theirs, and a reward
that is corrected changes b alone.

Source: L. Li, W. Chu, J. Langford and R. E. Schapire, "A Contextual-Bandit Approach to Personalized News Article
Recommendation", WWW 2010, algorithm 1 (disjoint models).
"""

from collections.abc import Sequence
from math import log2, sqrt
from operator import mul
from typing import Final

from services.inference.domain.output_format import OutputKind
from services.inference.domain.prompt import Prompt
from services.meshkit.content import DocumentPart, ImagePart, TextPart, ToolResultPart

#: How much what is not known yet is worth trying.
ALPHA: Final = 1.0
#: Numbers that a call is told apart by.
FEATURES: Final = 6
_TRIANGLE: Final = FEATURES * (FEATURES + 1) // 2
#: Sums of an arm: the upper triangle of Σ x xᵀ, row by row, then Σ r x.
SUMS: Final = _TRIANGLE + FEATURES
_MOST_LOG: Final = 20.0


def features_of(prompt: Prompt) -> tuple[float, ...]:
    """Gives what a call is told apart by, each from 0 to 1: 1, size, tools, media, wanted form, longest answer."""
    size, media = 0, False
    for part in prompt.parts:
        match part.content:
            case TextPart(text) | ToolResultPart(text=text):
                size += len(text)
            case ImagePart() | DocumentPart():
                media = True
            case _:
                pass
    return (
        1.0,
        min(log2(1 + size) / _MOST_LOG, 1.0),
        1.0 if prompt.tools else 0.0,
        1.0 if media else 0.0,
        0.0 if prompt.output_format.kind is OutputKind.TEXT else 1.0,
        min(log2(1 + prompt.max_output_tokens) / _MOST_LOG, 1.0),
    )


def linucb_lesson(features: Sequence[float], reward: float) -> tuple[float, ...]:
    """Gives what a reward adds to the sums of an arm."""
    seen = (features[row] * features[column] for row in range(FEATURES) for column in range(row, FEATURES))
    return (*seen, *(reward * one for one in features))


def linucb_correction(features: Sequence[float], change: float) -> tuple[float, ...]:
    """Gives what the change of a reward adds, whose call the sums hold already."""
    return (*(0.0,) * _TRIANGLE, *(change * one for one in features))


class Ridge:
    """What an arm has learnt, ready to be asked.

    Args:
        sums: as `linucb_lesson` gives them, added up; empty: nothing yet.
    """

    def __init__(self, sums: Sequence[float]) -> None:
        matrix = [[1.0 if row == column else 0.0 for column in range(FEATURES)] for row in range(FEATURES)]
        place = iter(sums or (0.0,) * SUMS)
        for row in range(FEATURES):
            for column in range(row, FEATURES):
                seen = next(place)
                matrix[row][column] += seen
                if column != row:
                    matrix[column][row] += seen
        self._inverse = _inverted(matrix)
        self._earned = list(place)

    def worth(self, features: Sequence[float]) -> float:
        """Gives what the arm may be worth for a call, at best."""
        spread = [sum(map(mul, row, features)) for row in self._inverse]
        return sum(map(mul, spread, self._earned)) + ALPHA * sqrt(max(sum(map(mul, spread, features)), 0.0))

    def learn(self, features: Sequence[float], reward: float) -> None:
        """Takes one more call in. Source: Sherman and Morrison 1950."""
        spread = [sum(map(mul, row, features)) for row in self._inverse]
        scale = 1.0 + sum(map(mul, spread, features))
        for row, of_row in zip(self._inverse, spread, strict=True):
            share = of_row / scale
            for column, of_column in enumerate(spread):
                row[column] -= share * of_column
        for place, one in enumerate(features):
            self._earned[place] += reward * one


def _inverted(matrix: list[list[float]]) -> list[list[float]]:
    """Inverts a positive definite matrix, by Gauss and Jordan: it needs no pivots."""
    size = len(matrix)
    rows = [[*row, *(1.0 if column == at else 0.0 for column in range(size))] for at, row in enumerate(matrix)]
    for at in range(size):
        pivot = rows[at][at]
        rows[at] = [one / pivot for one in rows[at]]
        for other in range(size):
            factor = rows[other][at]
            if other != at and factor:
                rows[other] = [one - factor * mine for one, mine in zip(rows[other], rows[at], strict=True)]
    return [row[size:] for row in rows]
