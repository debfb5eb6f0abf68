"""Numbers as a reader wants them: as many digits as their uncertainty leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

#: Decimals, and size of a number, beyond which powers of ten are easier to read.
_MOST_DECIMALS, _LARGEST = 7, 1e7


@dataclass(frozen=True)
class Digits:
    """How numbers that stand together are written.

    Attributes:
        decimals: after the point; None for four significant digits with a power of ten.
    """

    decimals: int | None

    @staticmethod
    def of(values: Iterable[float], widths: Iterable[float] = ()) -> Digits:
        """So that the middle one of the positive ``widths`` shows one digit, or two if they are below 30.

        The narrowest shows at least one digit, unless that is one hundredth of the middle one. Without
        widths, the largest value shows four digits.
        """
        sizes = [abs(value) for value in values if math.isfinite(value) and value]
        steps = sorted(width for width in widths if math.isfinite(width) and width > 0)
        if not sizes:
            return Digits(0)
        decimals = 3 - _exponent(max(sizes))
        if steps:
            middle = steps[(len(steps) - 1) // 2]
            decimals = math.ceil(math.log10(3 / middle))
            decimals = min(max(decimals, -_exponent(steps[0])), decimals + 2)
        if decimals > _MOST_DECIMALS or max(sizes) >= _LARGEST:
            return Digits(None)
        return Digits(max(decimals, 0))

    def __call__(self, value: float) -> str:
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        text = scientific(value) if self.decimals is None else f"{value:,.{self.decimals}f}"
        return text.replace("-", "−")


def plain(value: float) -> str:
    """A number by itself, with up to four significant digits and no zeros at the end."""
    text = Digits.of([value])(value)
    return text.rstrip("0").rstrip(".") if "." in text and "·" not in text else text


def scientific(value: float, digits: int = 4) -> str:
    """A number as 1.234·10⁻⁵."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def percent(share: float) -> str:
    """A share in [0, 1] in per cent, never rounded to all or nothing."""
    if 0 < share < 1:
        share = min(max(share, 1e-4), 1 - 1e-4)
    return f"{100 * share:.3g} %" if share < 0.99 else f"{100 * share:.4g} %"


def tick(value: float) -> str:
    """A number on an axis that begins at 0 or is logarithmic."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return plain(value)
    mantissa, _, power = scientific(value).partition("·")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}·{power}"


def probability(value: float) -> str:
    """A p-value; those that a float64 cannot tell from 0 as an upper bound."""
    if value < 1e-300:
        return "< 10⁻³⁰⁰"
    return f"{value:.3f}" if value >= 0.001 else scientific(value, 2)


def duration(seconds: float) -> str:
    """Time in units that fit: 0.35 s, 12.3 s, 4 min 10 s, 3 h 20 min, 2 d 5 h."""
    if not seconds >= 1:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def rate(per_second: float) -> str:
    """Combinations per second, to three digits."""
    if not math.isfinite(per_second):
        return "–"
    return f"{float(f'{per_second:.3g}'):,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))
