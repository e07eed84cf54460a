"""Ways to divide a graph's edges: each returns (E,) int64, 0 for a train edge, 1 for validation and
2 for test, or raises a ValueError if a part would be empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.graph.edge_order import rank_within_users
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.times import date_in_order, time_range


def checked_ratios(ratios: Any) -> tuple[float, float]:
    """Return the validation and the test share of (train, validation, test) shares, 0 for none."""
    given = _listed(ratios)
    if len(given) not in (1, 2, 3):
        raise ValueError(
            "ratios must be (train, validation, test), (train, validation) or (train,), got "
            f"{ratios!r:.80}"
        )
    try:
        shares = tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"ratios must be numbers, got {ratios!r:.80}") from error
    if not all(math.isfinite(share) and share > 0 for share in shares):
        hint = "; leave the test share out if no test set is wanted" if len(shares) == 3 else ""
        raise ValueError(f"each of the ratios must be a positive number, got {shares}{hint}")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"ratios must add up to 1, got {shares}, which add up to {sum(shares):.6g}"
        )
    # Rounding of the other shares would take up a smaller one.
    if 1 - sum(shares[1:]) < 1e-6:
        raise ValueError(f"ratios must leave a share for train, got {shares}")
    _, val_share, test_share = (*shares, 0.0, 0.0)[:3]
    return val_share, test_share


def checked_leave_out(leave_out: Any) -> tuple[int, int]:
    """Return the numbers of validation and test edges of each user."""
    given = _listed(leave_out)
    if len(given) not in (1, 2):
        raise ValueError(
            "leave_out must be the numbers of validation and test edges of each user, such as "
            f"(1, 1), or (1,) for validation alone, got {leave_out!r:.80}"
        )
    num_val, num_test = (
        checked_count(f"leave_out[{place}]", count) for place, count in enumerate((*given, 0)[:2])
    )
    if num_val + num_test == 0:
        raise ValueError(f"leave_out must hold out an edge of each user, got {leave_out!r:.80}")
    return num_val, num_test


def checked_dates(dates: Any, order: Tensor) -> tuple[int | float, ...]:
    """Return the first validation date and, if given, the first test date, in the order's unit."""
    given = _listed(dates)
    if len(given) not in (1, 2):
        raise ValueError(
            "dates must be (first of validation, first of test), or (first of validation,), got "
            f"{dates!r:.80}"
        )
    cuts = tuple(date_in_order(date, order, f"dates[{place}]") for place, date in enumerate(given))
    if len(cuts) == 2 and not cuts[0] < cuts[1]:
        raise ValueError(
            f"dates must rise: test begins at {given[1]}, which is not after {given[0]}, where "
            "validation begins"
        )
    return cuts


def _listed(given: Any) -> list[Any]:
    listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
    return list(given) if listed else []


def random_parts(
    interactions: Interactions,
    shares: tuple[float, float],
    min_train: int,
    generator: torch.Generator,
) -> Tensor:
    """Divide all edges at random: ``floor(share * E)`` of them, but at least one, in each part."""
    num_edges = interactions.num_edges
    num_val, num_test = _held_out(num_edges, *shares)
    if num_edges - num_val - num_test < min_train:
        needed = _least_edges(num_edges + 1, *shares, min_train)
        raise ValueError(
            f"too few edges to split: {num_edges}, and at least {needed} are needed for "
            f"{_names(*shares)} sets with these ratios"
        )
    order = torch.randperm(
        num_edges, generator=generator, dtype=torch.int64, device=interactions.device
    )
    part = torch.zeros(num_edges, dtype=torch.int64, device=interactions.device)
    part[order[:num_val]] = 1
    part[order[num_val : num_val + num_test]] = 2
    return part


def parts_by_user(
    interactions: Interactions,
    shares: tuple[float, float],
    min_train: int,
    generator: torch.Generator,
    order: Tensor | None,
) -> Tensor:
    """Divide each user's edges by shares, rounded down: the last ones in ``order``, or random ones
    if it is None."""
    degrees = interactions.user_degrees
    num_val, num_test = ((share * degrees.double() + 1e-9).floor().long() for share in shares)
    part = _held_out_of_users(interactions, num_val, num_test, generator, order)
    counts = torch.bincount(part, minlength=3).tolist()
    wanted = (min_train, *(1 for share in shares if share))
    if any(count < want for count, want in zip(counts, wanted, strict=False)):
        most = int(degrees.max()) if len(degrees) else 0
        # One user with an edge in each part is enough, since any other user adds a train edge.
        others = int((degrees > 0).sum()) > 1
        start = max(most + 1, math.ceil(1 / min(share or 1.0 for share in shares) - 1e-9))
        needed = _least_edges(start, *shares, 1 if others else min_train)
        raise ValueError(
            f"too few edges to split by user: {_names(*shares)} would get "
            f"{counts[: len(wanted)]} edges; "
            f"some user needs at least {needed} edges for these ratios, and the most that one has "
            f"is {most}"
        )
    return part


def leave_out_parts(
    interactions: Interactions,
    counts: tuple[int, int],
    min_train: int,
    generator: torch.Generator,
    order: Tensor | None,
) -> Tensor:
    """Hold out the same number of edges of each user: the last ones in ``order``, or random ones if
    it is None. A user keeps a train edge; of too few others, test gets its number first."""
    degrees = interactions.user_degrees
    spare = (degrees - 1).clamp(min=0)
    num_test = spare.clamp(max=counts[1])
    num_val = (spare - num_test).clamp(max=counts[0])
    part = _held_out_of_users(interactions, num_val, num_test, generator, order)
    most = int(degrees.max()) if len(degrees) else 0
    found = torch.bincount(part, minlength=3).tolist()
    # Validation is what is left beside one train edge and the test edges.
    for name, code, wanted, needed in (
        ("test", 2, counts[1], 2),
        ("validation", 1, counts[0], counts[1] + 2),
    ):
        if wanted and not found[code]:
            raise ValueError(
                f"leave_out={counts}: the {name} set would be empty; a user needs at least "
                f"{needed} edges for it, and the most that one has is {most}"
            )
    if found[0] < min_train:
        raise ValueError(
            f"leave_out={counts}: train would have {found[0]} edges, and it needs {min_train}"
        )
    return part


def _held_out_of_users(
    interactions: Interactions,
    num_val: Tensor,
    num_test: Tensor,
    generator: torch.Generator,
    order: Tensor | None,
) -> Tensor:
    """Hold out numbers of edges of each user, (num_users,) int64 for each part."""
    parts = [(1, num_val), (2, num_test)]
    if order is None:
        sequence = torch.randperm(
            interactions.num_edges,
            generator=generator,
            dtype=torch.int64,
            device=interactions.device,
        )
    else:  # the last first, and of these the test edges
        sequence = order.argsort(stable=True).flip(0)
        parts.reverse()
    rank = rank_within_users(interactions, sequence)
    part, taken = torch.zeros_like(rank), torch.zeros_like(num_val)
    for code, count in parts:
        first, taken = taken, taken + count
        part[(rank >= first[interactions.users]) & (rank < taken[interactions.users])] = code
    return part


def parts_by_time(order: Tensor, shares: tuple[float, float], min_train: int) -> Tensor:
    """Hold out the last shares of all edges in ``order``. Edges of equal times stay together: a cut
    is moved to the nearest change of time, the earlier of two, so that no part is empty."""
    num_edges = len(order)
    num_val, num_test = _held_out(num_edges, *shares)
    times, counts = order.unique(return_counts=True)
    before = counts.cumsum(0)[:-1]  # edges before the cut after each time
    first = int((before < min_train).sum())
    cuts: list[int] = []
    end = len(before)
    # From the last cut to the first; an earlier cut needs a place before it.
    wanted = [(num_test, num_test), (num_val, num_test + num_val)]
    wanted = [(count, behind) for count, behind in wanted if count]
    for place, (_, behind) in enumerate(wanted):
        low = first + len(wanted) - 1 - place
        if low >= end:
            found = f"{len(times)} time{'s' if len(times) > 1 else ''}, {time_range(order)}"
            raise ValueError(
                f"ratios: too few edges to split by time: {_names(*shares)} sets need "
                f"{len(wanted) + 1} different times and {min_train} train edges, but the "
                f"{num_edges} edges have {found}"
            )
        distance = (before[low:end] - (num_edges - behind)).abs()
        end = low + int(distance.argmin())
        cuts.append(end)
    if not cuts and num_edges < min_train:
        raise ValueError(f"too few edges to split: {num_edges}, and train needs {min_train}")
    part = torch.zeros(num_edges, dtype=torch.int64, device=order.device)
    codes = [code for code, count in ((2, num_test), (1, num_val)) if count]
    for code, cut in reversed(list(zip(codes, cuts, strict=True))):
        part[order > times[cut]] = code
    return part


def parts_by_date(
    order: Tensor, cuts: Sequence[int | float], dates: Sequence[Any], min_train: int
) -> Tensor:
    """Hold out the edges at or after the first of ``cuts``; those at or after the second are test.

    Args:
        order: (E,) int64 or float64 times.
        cuts: one or two rising numbers of the order's unit.
        dates: the same as the user gave them, for errors.
        min_train: least number of train edges.
    """
    part = torch.zeros(len(order), dtype=torch.int64, device=order.device)
    for cut in cuts:
        part += order >= cut
    found = torch.bincount(part, minlength=3).tolist()
    given = [str(date) for date in dates]
    spans = [f"before {given[0]}", " and before ".join((f"at or after {given[0]}", *given[1:]))]
    spans += [f"at or after {date}" for date in given[1:]]
    for name, span, count, least in zip(
        ("train", "validation", "test"), spans, found, (min_train, 1, 1), strict=False
    ):
        if count < least:
            raise ValueError(
                f"dates: the {name} set needs {least} edge{'s' if least > 1 else ''} {span}, and "
                f"there {'is' if count == 1 else 'are'} {count or 'none'}; the times are "
                f"{time_range(order)}"
            )
    return part


def _held_out(total: int, val_share: float, test_share: float) -> tuple[int, int]:
    num_val, num_test = (
        max(1, floor(share * total)) if share else 0 for share in (val_share, test_share)
    )
    return num_val, num_test


def floor(value: float) -> int:
    """Round down, but not for the last bit of a product such as 0.29 * 100."""
    return math.floor(value + 1e-9)


def _least_edges(start: int, val_share: float, test_share: float, min_train: int) -> int:
    """Return the least number of edges, from ``start`` on, that leaves ``min_train`` of them to
    train."""
    # Always enough: rounding and the least of one edge take at most one more for each part. A tiny
    # train share makes it huge; then it is the answer, without a search.
    enough = math.ceil((min_train + 2) / (1 - val_share - test_share)) + 1
    near = range(start, min(enough, start + 100_000))
    return next(
        (n for n in near if n - sum(_held_out(n, val_share, test_share)) >= min_train),
        max(start, enough),
    )


def _names(val_share: float, test_share: float) -> str:
    if test_share:
        return "train, validation and test"
    return "train and validation" if val_share else "train"
