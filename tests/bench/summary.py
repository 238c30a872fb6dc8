"""Many measurements of one thing, as the few numbers that are reported. Pure."""

from __future__ import annotations

import statistics

__all__ = ["less", "ratio", "summary"]


def summary(values):
    """Return median, minimum, maximum, interquartile range and number of the values; None where there are none."""
    values = sorted(values)
    if not values:
        return None
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": quarters[1],
        "min": values[0],
        "max": values[-1],
        "iqr": quarters[2] - quarters[0],
        "n": len(values),
    }


def less(values, baseline):
    """Return what each value has more than the median of the baseline's."""
    return [value - statistics.median(baseline) for value in values]


def ratio(numerator, denominator):
    """Return their quotient; None when it says nothing: one is missing, or the noise made it negative."""
    if numerator is None or denominator is None or numerator < 0 or denominator <= 0:
        return None
    return numerator / denominator
