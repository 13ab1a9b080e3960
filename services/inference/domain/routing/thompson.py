"""Thompson sampling: each arm is drawn from what is believed of it, and the best draw is asked.

An arm that was asked n times and earned rewards r from 0 to 1 is believed to be worth Beta(1 + Σr, 1 + n - Σr). For
rewards of 0 and 1 that is the exact posterior; for others it is the expectation of the Bernoulli trials of Agrawal and
Goyal, without their dice, so that replicas can add their sums and a reward can be corrected later. Nothing is
forgotten: it is made for worth that does not change.

Sources: W. R. Thompson 1933; S. Agrawal and N. Goyal, "Analysis of Thompson Sampling for the Multi-armed Bandit
Problem", COLT 2012, algorithm 2.
"""

from collections.abc import Sequence
from random import Random


def thompson_lesson(reward: float) -> tuple[float, ...]:
    """Gives what a reward adds to the sums of an arm."""
    return (reward,)


def thompson_draw(pulls: int, sums: Sequence[float], dice: Random) -> float:
    """Draws what an arm may be worth.

    Args:
        pulls: times that it was asked; `sums` hold the sum of what it earned.
    """
    # Sums of many replicas round differently: never beyond what can be.
    won = min(max(sums[0], 0.0), float(pulls))
    return dice.betavariate(1 + won, 1 + pulls - won)
