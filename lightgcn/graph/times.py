"""Dates and the numbers that an order of edges holds: its unit, and a date in that unit."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from torch import Tensor

from lightgcn.core.checks import is_number
from lightgcn.graph.edge_order import checked_order

# Units of times since 1970 by the magnitude of a time: from 1973 (in seconds) to the year 5138.
_UNITS = (
    ("seconds", 1e8, 10**9),
    ("milliseconds", 1e11, 10**6),
    ("microseconds", 1e14, 10**3),
    ("nanoseconds", 1e17, 1),
)
_SPAN = 1e3


def time_unit(order: Tensor) -> tuple[str, int] | None:
    """Return the unit of times since 1970 and its nanoseconds, None if these are no such times.

    The magnitude of the median decides, so that a few wrong times have no influence.

    Args:
        order: (E,) int64 or float64, as `Interactions.order`.

    Example:
        >>> import torch
        >>> time_unit(torch.tensor([1388534400, 1391212800]))
        ('seconds', 1000000000)
        >>> time_unit(torch.tensor([0, 1, 2])) is None
        True
    """
    usual = abs(float(order.median())) if len(order) else 0.0
    for name, least, nanoseconds in _UNITS:
        if least <= usual < least * _SPAN:
            return name, nanoseconds
    return None


def date_in_order(date: Any, order: Tensor, name: str = "date") -> int | float:
    """Return the least number of an order's unit that is at or after a date.

    Args:
        date: an ISO string, a date or a datetime (without zone: UTC), or a number, which is
            returned as it is.
        order: (E,) int64 or float64.
        name: of the argument, for errors.

    Raises:
        ValueError: if ``date`` is none of these, or it is a date and the order holds no times.

    Example:
        >>> import torch
        >>> date_in_order("2014-01-01", torch.tensor([1388534400000, 1391212800000]))
        1388534400000
    """
    if isinstance(date, np.integer | np.floating):
        date = date.item()
    if is_number(date):
        return date  # type: ignore[no-any-return]
    nanoseconds = _nanoseconds(date, name)
    unit = time_unit(order)
    if unit is None:
        raise ValueError(
            f"{name} is {date}, but the order holds no times since 1970: it is "
            f"{time_range(order)}; give a number of that range"
        )
    if order.is_floating_point():
        return nanoseconds / unit[1]
    return -(-nanoseconds // unit[1])


def _nanoseconds(date: Any, name: str) -> int:
    """Return the nanoseconds since 1970 of a date."""
    wanted = f"{name} must be an ISO date such as 2014-01-31, a datetime or a number, got {date!r}"
    parsed = date
    if isinstance(date, str):
        try:
            parsed = datetime.datetime.fromisoformat(date.strip().replace("Z", "+00:00"))
        except ValueError as error:
            raise ValueError(wanted) from error
    if not isinstance(parsed, datetime.date | np.datetime64):  # pandas timestamps are datetimes
        raise ValueError(wanted)
    try:
        order = checked_order([parsed], 1)
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from error
    assert order is not None
    return int(order)


def time_text(value: float, order: Tensor) -> str:
    """Return a time of an order to read: a date in UTC, or the number if the order has no unit."""
    unit = time_unit(order)
    if unit is not None and abs(value) * unit[1] < 2**63:
        seconds = np.datetime64(int(value * unit[1]), "ns").astype("datetime64[s]")
        return str(seconds).removesuffix("T00:00:00")
    return f"{value:.15g}"


def time_range(order: Tensor) -> str:
    """Return the first and the last time of an order, to read."""
    if not len(order):
        return "empty"
    first, last = (time_text(end.item(), order) for end in (order.min(), order.max()))
    return f"{first} to {last}"
