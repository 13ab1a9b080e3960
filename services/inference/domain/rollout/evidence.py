"""How sure one may be that a canary is worse, or that it is not, at any time one cares to look.

Worse: only *bad events* are counted, at most one of a kind for each unit. Units are divided by a hash, so when the
canary is no worse, the next bad event is the canary's with a probability of at most its share, however many bad events
there are and however that changes in time. `EProcess` bets against this: its expected value then never grows, so the
chance that it ever reaches 1/alpha is at most alpha (Ville 1939), and looking at it all the time costs nothing.

Not worse: bounds of a rate that hold at all times at once (`rate_bounds`), by mixing over all rates (Robbins 1970).

Sources: J. Ville, Étude critique de la notion de collectif, 1939; A. Wald, Sequential Tests of Statistical Hypotheses,
1945; H. Robbins, Statistical Methods Related to the Law of the Iterated Logarithm, 1970; S. R. Howard, A. Ramdas,
J. McAuliffe, J. Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021; R. Johari, P. Koomen,
L. Pekelis, D. Walsh, Always Valid Inference, 2022.
"""

from collections.abc import Callable
from functools import lru_cache
from math import exp, fsum, lgamma, log
from typing import Final

from services.inference.domain.rollout.rollout import ALL
from services.inference.domain.route import Arm

#: How many times as often the canary might do harm; each is bet on alike.
RATIOS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
#: Beyond this, evidence is as good as certain and no float overflows.
_MOST_LOG: Final = 600.0
_BISECTIONS: Final = 40


class EProcess:
    """Evidence that bad events are the canary's more often than its share explains. Begins at 1."""

    __slots__ = ("_logs", "canary", "stable")

    def __init__(self) -> None:
        self.canary = 0
        self.stable = 0
        self._logs = [0.0] * len(RATIOS)

    def note(self, arm: Arm, *, share_permille: int, times: int = 1) -> None:
        """Takes in bad events of one side.

        Args:
            share_permille: the canary's share when they happened. Where one side has all, an event says nothing.
        """
        if arm is Arm.CANARY:
            self.canary += times
        else:
            self.stable += times
        if 0 < share_permille < ALL:
            for index, bet in enumerate(_bets(share_permille, arm is Arm.CANARY)):
                self._logs[index] += times * bet

    @property
    def value(self) -> float:
        """Expected to be at most 1 at any time when the canary is no worse."""
        return fsum(exp(min(one, _MOST_LOG)) for one in self._logs) / len(RATIOS)


@lru_cache(maxsize=2 * ALL)
def _bets(share_permille: int, canary: bool) -> tuple[float, ...]:
    """Gives, for each ratio, the logarithm by which an event multiplies what was bet on it.

    With a share p, a canary that errs r times as often has a part pr/(1-p+pr) in all bad events.
    """
    share = share_permille / ALL
    parts = [share * ratio / (1 - share + share * ratio) for ratio in RATIOS]
    return tuple(log(part / share) if canary else log((1 - part) / (1 - share)) for part in parts)


def rate_bounds(bad: int, units: int, *, alpha: float) -> tuple[float, float]:
    """Gives bounds between which the rate of bad units lies, at all times at once, with probability 1-alpha.

    A rate p is left out when ∫ q^s (1-q)^(n-s) dq ≥ p^s (1-p)^(n-s) / alpha.
    Args:
        bad: units that had a bad event; more than `units`, as older releases may have recorded, are all of them.
    """
    if units == 0:
        return 0.0, 1.0
    bad = min(bad, units)
    good = units - bad
    level = lgamma(bad + 1) + lgamma(good + 1) - lgamma(units + 2) + log(alpha)

    def inside(rate: float) -> bool:
        return bad * log(rate) + good * log(1 - rate) > level

    return (
        0.0 if bad == 0 else _edge(inside, outside=1e-12, within=_likeliest(bad, units)),
        1.0 if good == 0 else _edge(inside, outside=1 - 1e-12, within=_likeliest(bad, units)),
    )


def _likeliest(bad: int, units: int) -> float:
    return min(max(bad / units, 1e-9), 1 - 1e-9)


def _edge(inside: Callable[[float], bool], *, outside: float, within: float) -> float:
    for _ in range(_BISECTIONS):
        middle = (outside + within) / 2
        if inside(middle):
            within = middle
        else:
            outside = middle
    return outside
