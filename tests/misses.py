"""How often an interval may miss in a simulation before that speaks against it."""

import scipy.stats

#: A correct interval fails such a test once in a million times (and the seeds are fixed).
RARE = 1e-6


def most_misses(repetitions: int, rate: float = 0.05) -> int:
    """The number of misses that Binomial(repetitions, rate) exceeds with probability ``RARE``."""
    return int(scipy.stats.binom.isf(RARE, repetitions, rate))


def fewest_misses(repetitions: int, rate: float) -> int:
    """The number of misses that Binomial(repetitions, rate) stays below with probability ``RARE``."""
    return int(scipy.stats.binom.ppf(RARE, repetitions, rate))
