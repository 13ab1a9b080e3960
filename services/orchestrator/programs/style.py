"""How a turn sounds: confidence from its wording, and what the agent's style weights lead to."""

from collections.abc import Mapping
from typing import Final

#: Words that weaken a claim; each share of one per cent of the words costs confidence.
_HEDGES: Final = frozenset(
    (
        *("could", "doubt", "guess", "likely", "may", "maybe", "might", "perhaps", "possibly", "probably"),
        *("seem", "seems", "uncertain", "unclear", "unsure"),
    )
)
_BASE_CONFIDENCE: Final = 0.9
_LEAST_CONFIDENCE: Final = 0.1
#: Confidence lost per hedging word in a hundred.
_HEDGE_WEIGHT: Final = 0.08

#: What a strong weight (>= 0.7) of a style tells the model, and the reader of the turn.
_INSIGHTS: Final[Mapping[str, str]] = {
    "logic": "Applying rigorous logical validation",
    "creativity": "Looking for unusual connections",
    "analytical": "Breaking the topic into parts",
    "empathy": "Weighing what it means for people",
    "skepticism": "Questioning every assumption",
    "brevity": "Keeping to the point",
}
_STRONG: Final = 0.7


def confidence_of(text: str) -> float:
    """Says how sure a text sounds, 0 to 1: the fewer hedging words, the surer. An empty text is not sure at all."""
    words = text.lower().split()
    if not words:
        return 0.0
    hedges = sum(1 for word in words if word.strip(".,;:!?\"'()") in _HEDGES)
    return round(max(_BASE_CONFIDENCE - _HEDGE_WEIGHT * 100 * hedges / len(words), _LEAST_CONFIDENCE), 3)


def insights_of(style: Mapping[str, float]) -> tuple[str, ...]:
    """Gives one sentence for each strong style weight, strongest first."""
    strong = sorted(
        (name for name, weight in style.items() if weight >= _STRONG), key=lambda name: (-style[name], name)
    )
    return tuple(_INSIGHTS.get(name, f"Leaning on {name}") for name in strong)
