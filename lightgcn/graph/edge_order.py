"""The order of edges: the times or places in a list by which a user's edges are sorted."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import as_tensor, is_missing

if TYPE_CHECKING:
    from lightgcn.graph.interactions import Interactions


def checked_order(given: Any, num_edges: int) -> Tensor | None:
    """Return (num_edges,) int64 or float64 to sort edges by, or None for None.

    Times (datetime64 arrays, pandas timestamps, lists of datetimes) become int64 nanoseconds since
    1970; times with a zone are converted to UTC.

    Raises:
        ValueError: if the values are neither numbers nor times, are not one per edge, or one is
            missing (NaN, NaT, None) or outside the years that nanoseconds can hold (1678 to 2261).
    """
    if given is None:
        return None
    order = as_tensor("order", given if isinstance(given, Tensor) else _as_numbers(given))
    if order.dtype == torch.bool or order.is_complex():
        raise ValueError(f"order must be numbers or times, got {order.dtype}")
    if order.shape != (num_edges,):
        raise ValueError(
            f"order must have one entry for each of {num_edges} edges, got shape "
            f"{tuple(order.shape)}"
        )
    if not order.is_floating_point():
        return order.to(torch.int64)
    missing = order.isnan().nonzero().flatten()
    if len(missing):
        raise ValueError(f"order[{int(missing[0])}] is NaN; each edge needs a time or place")
    return order.to(torch.float64)


def _as_numbers(given: Any) -> npt.NDArray[Any]:
    """Return numbers as they are, and times as int64 nanoseconds."""
    if getattr(getattr(given, "dtype", None), "tz", None) is not None:
        given = given.to_numpy("datetime64[ns]")  # pandas, in UTC
    try:
        values = np.asarray(given)
    except Exception as error:  # whatever the object raises
        raise ValueError(f"order must be numbers or times: {error}") from error
    if values.ndim == 0:
        raise ValueError(f"order must be a time or place for each edge, got {given!r:.80}")
    if values.dtype.kind == "O":
        listed = values.tolist()
        missing = next((place for place, value in enumerate(listed) if is_missing(value)), None)
        if missing is not None:
            raise ValueError(f"order[{missing}] is missing; each edge needs a time or place")
        is_time = bool(listed) and isinstance(listed[0], datetime.date)
        try:
            values = np.asarray([_utc(v) for v in listed] if is_time else listed)
            values = values.astype("datetime64") if is_time else values
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"order must be all numbers or all times: {error}") from error
    if values.dtype.kind not in "biufcM":
        found = f"{values.flat[0]!r}" if values.size else f"{values.dtype}"
        raise ValueError(
            f"order must be numbers or times, got {found}; parse text first, for example with "
            "pandas.to_datetime"
        )
    if values.dtype.kind != "M":
        return values
    missing_times = np.isnat(values).nonzero()[0]
    if len(missing_times):
        raise ValueError(f"order[{missing_times[0]}] is NaT; each edge needs a time or place")
    nanoseconds = values.astype("datetime64[ns]")
    if bool((nanoseconds.astype(values.dtype) != values).any()):
        place = int((nanoseconds.astype(values.dtype) != values).argmax())
        raise ValueError(f"order[{place}] is {values[place]}, outside the years 1678 to 2261")
    return nanoseconds.astype(np.int64)


def _utc(value: Any) -> Any:
    """Return a time without its zone, in UTC; a pandas timestamp with its nanoseconds."""
    if hasattr(value, "to_datetime64"):
        return value.to_datetime64()
    if getattr(value, "tzinfo", None) is not None:
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    return value


def rank_within_users(interactions: Interactions, sequence: Tensor) -> Tensor:
    """Return (E,) int64: for each edge, how many edges of its user come earlier in a sequence.

    Args:
        interactions: the graph.
        sequence: (E,) int64 permutation of the edges.
    """
    # A stable sort by user keeps the sequence's order within each user.
    users = interactions.users
    by_user = sequence[users[sequence].argsort(stable=True)]
    ranks = torch.empty_like(sequence)
    positions = torch.arange(len(users), dtype=torch.int64, device=users.device)
    ranks[by_user] = positions - interactions.indptr[users]
    return ranks


def edge_ages(interactions: Interactions) -> Tensor:
    """Return (E,) int64: for each edge, how many edges of its user are later in the graph's order.

    Raises:
        ValueError: if the graph has no order.
    """
    order = interactions.order
    if order is None:
        raise ValueError(
            "these interactions have no order: pass a time or place for each edge as order=…"
        )
    ranks = rank_within_users(interactions, order.argsort(stable=True))
    return interactions.user_degrees[interactions.users] - 1 - ranks
