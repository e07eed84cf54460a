"""Leave-n-out, a cut in time and dates, against naive loops."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn import Interactions, Split, split_edges
from lightgcn.graph.times import time_range, time_unit

Edge = tuple[int, int]


def edges_of(graph: Interactions) -> set[Edge]:
    return set(zip(graph.users.tolist(), graph.items.tolist(), strict=True))


def parts_of(split: Split) -> tuple[set[Edge], set[Edge], set[Edge]]:
    return tuple(edges_of(links.positives) for links in split)  # type: ignore[return-value]


def times_of(graph: Interactions, order: Any) -> dict[Edge, Any]:
    values = order.tolist() if isinstance(order, torch.Tensor) else list(order)
    return dict(
        zip(zip(graph.users.tolist(), graph.items.tolist(), strict=True), values, strict=True)
    )


@st.composite
def ordered_graphs(draw: st.DrawFn) -> tuple[Interactions, torch.Tensor]:
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    every = [(u, i) for u in range(num_users) for i in range(num_items)]
    edges = sorted(draw(st.lists(st.sampled_from(every), unique=True, min_size=2)))
    times = draw(st.lists(st.integers(0, 12), min_size=len(edges), max_size=len(edges)))
    pairs = torch.tensor(edges, dtype=torch.int64)
    graph = Interactions(pairs[:, 0], pairs[:, 1], num_users, num_items)
    return graph, torch.tensor(times, dtype=torch.int64)


def split_or_refusal(graph: Interactions, *arguments: Any, **options: Any) -> Split | str:
    try:
        return split_edges(graph, *arguments, negatives=0.0, **options)
    except ValueError as error:
        return str(error)


def check_partition(graph: Interactions, split: Split) -> None:
    train, val, test = parts_of(split)
    assert train | val | test == edges_of(graph)
    assert len(train) + len(val) + len(test) == graph.num_edges
    assert edges_of(split.val.message) == train
    assert edges_of(split.test.message) == train | val


# Leave n out


def naive_leave_out(graph: Interactions, order: torch.Tensor, num_val: int, num_test: int) -> Any:
    place = times_of(graph, order)
    parts: tuple[set[Edge], set[Edge], set[Edge]] = (set(), set(), set())
    for user in range(graph.num_users):
        left = sorted((place[user, i], i) for i in graph.items_of(user).tolist())
        for code, count in ((2, num_test), (1, num_val)):
            for _ in range(count):
                if len(left) > 1:
                    parts[code].add((user, left.pop()[1]))
        parts[0].update((user, item) for _, item in left)
    return parts


@settings(deadline=None, max_examples=150)
@given(ordered_graphs(), st.integers(0, 3), st.integers(0, 3))
def test_leave_out_is_the_naive_loop(
    case: tuple[Interactions, torch.Tensor], num_val: int, num_test: int
) -> None:
    graph, order = case
    split = split_or_refusal(graph, leave_out=(num_val, num_test), order=order)
    expected = naive_leave_out(graph, order, num_val, num_test)
    empty = (num_val and not expected[1]) or (num_test and not expected[2])
    assert isinstance(split, str) == bool(empty or num_val + num_test == 0)
    if isinstance(split, Split):
        assert parts_of(split) == expected
        check_partition(graph, split)
        counts = [len(part) for part in parts_of(split)]
        drawn = split_edges(graph, leave_out=(num_val, num_test), negatives=0.0, seed=3)
        assert [len(part) for part in parts_of(drawn)] == counts
        owners = graph.user_degrees > 0
        for one in (split, drawn):
            assert bool((one.train.positives.user_degrees[owners] > 0).all())
            check_partition(graph, one)


def test_what_users_of_few_edges_give() -> None:
    users, items = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3], [0, 0, 1, 0, 1, 2, 0, 1, 2, 3]
    graph = Interactions(users, items, 4, 9)
    split = split_edges(graph, leave_out=(1, 1), order=torch.arange(10))
    assert parts_of(split) == (
        {(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)},
        {(2, 1), (3, 2)},
        {(1, 1), (2, 2), (3, 3)},
    )
    one = split_edges(graph, leave_out=(1,), order=torch.arange(10))
    assert len(parts_of(one)[1]) == 3 and not parts_of(one)[2]
    only_test = split_edges(graph, leave_out=(0, 1))
    assert len(parts_of(only_test)[2]) == 3 and not parts_of(only_test)[1]


def test_leave_out_without_an_order_draws_by_the_seed() -> None:
    graph = Interactions(
        torch.arange(300) // 10, torch.arange(300) % 10 + torch.arange(300) // 10, 30, 40
    )
    first, again, other = (split_edges(graph, leave_out=(2, 1), seed=seed) for seed in (0, 0, 1))
    assert parts_of(first) == parts_of(again) != parts_of(other)
    assert [len(part) for part in parts_of(first)] == [210, 60, 30]


# A cut in time


def naive_cut(order: list[int], wanted: int, places: list[int]) -> int:
    """Return the place among changes of time that is nearest to the wanted one."""
    return min(places, key=lambda place: (abs(place - wanted), place))


def naive_time_parts(order: list[int], val: float, test: float) -> list[int] | None:
    """Return a code per edge; None if there are too few times."""
    total, ordered = len(order), sorted(order)
    changes = [place for place in range(1, total) if ordered[place - 1] != ordered[place]]
    count = [max(1, int(share * total + 1e-9)) for share in (val, test)]
    if len(changes) < 2:
        return None
    last = naive_cut(order, total - count[1], changes[1:])
    first = naive_cut(order, total - sum(count), [place for place in changes if place < last])
    return [(time >= ordered[first]) + (time >= ordered[last]) for time in order]


@settings(deadline=None, max_examples=200)
@given(ordered_graphs(), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.4, 0.2, 0.4)]))
def test_a_cut_in_time_is_the_naive_one(
    case: tuple[Interactions, torch.Tensor], ratios: tuple[float, float, float]
) -> None:
    graph, order = case
    split = split_or_refusal(graph, ratios, stratify="time", order=order)
    expected = naive_time_parts(order.tolist(), *ratios[1:])
    if expected is None:
        assert isinstance(split, str) and "different times" in split
        return
    assert isinstance(split, Split)
    check_partition(graph, split)
    place = times_of(graph, order)
    times = [[place[edge] for edge in part] for part in parts_of(split)]
    assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])
    codes = dict(zip(place, expected, strict=True))
    for code, part in enumerate(parts_of(split)):
        assert part == {edge for edge in codes if codes[edge] == code}


def test_shares_are_exact_if_all_times_differ_and_the_graphs_own_order_is_used() -> None:
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(200, generator=generator) + 1_400_000_000
    graph = Interactions(torch.arange(200) // 5, torch.arange(200) % 50, 40, 50, order=order)
    for ratios, counts in (
        ((0.8, 0.1, 0.1), [160, 20, 20]),
        ((0.9, 0.1), [180, 20, 0]),
        ((1.0,), [200, 0, 0]),
    ):
        split = split_edges(graph, ratios, stratify="time")
        assert [len(part) for part in parts_of(split)] == counts
        if len(ratios) == 3:
            assert split.test.positives.order is not None
            assert sorted(split.test.positives.order.tolist()) == sorted(order.tolist())[180:]


def test_disjoint_known_and_negatives_are_those_of_other_splits() -> None:
    order = torch.arange(60)
    graph = Interactions(torch.arange(60) // 6, torch.arange(60) % 12, 10, 24, order=order)
    known = Interactions([0, 1], [23, 23], 10, 24)
    for options in ({"stratify": "time"}, {"leave_out": (1, 1)}, {"dates": (40, 50)}):
        split = split_edges(graph, disjoint=0.2, known=known, negatives=2.0, **options)  # type: ignore[arg-type]
        assert split.train.is_disjoint
        train = edges_of(split.val.message)
        assert edges_of(split.train.message) | edges_of(split.train.positives) == train
        assert not edges_of(split.train.message) & edges_of(split.train.positives)
        for links in (split.val, split.test):
            assert links.negatives.shape[1] == 2 * len(links.positives.users)
            avoided = edges_of(graph) | edges_of(known)
            assert not set(zip(*links.negatives.tolist(), strict=True)) & avoided


# Dates

DAYS = np.arange("2014-01-01", "2014-03-02", dtype="datetime64[D]")  # 60 days
UNITS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}


def dated(order: Any) -> Interactions:
    return Interactions(torch.arange(60) // 6, torch.arange(60) % 12, 10, 24, order=order)


def orders() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas")
    nanoseconds = DAYS.astype("datetime64[ns]").astype(np.int64)
    found = {unit: torch.from_numpy(nanoseconds // each) for unit, each in UNITS.items()}
    return found | {
        "float seconds": torch.from_numpy(nanoseconds / 1e9),
        "datetime64": DAYS,
        "datetimes": [datetime.datetime.fromisoformat(str(day)) for day in DAYS],
        "zoned": [datetime.datetime.fromisoformat(f"{day}T05:00:00+05:00") for day in DAYS],
        "series": pandas.Series(pandas.to_datetime(DAYS)),
        "timestamps": list(pandas.to_datetime(DAYS)),
        "zoned series": pandas.Series(pandas.to_datetime(DAYS)).dt.tz_localize("UTC"),
    }


def test_dates_mean_the_same_in_each_unit_and_type() -> None:
    utc = datetime.timezone.utc
    for name, order in orders().items():
        graph = dated(order)
        for dates in (
            ("2014-02-01", "2014-02-20"),
            ("2014-01-31T00:00:01", "2014-02-19T23:59:59.5Z"),
            ("2014-02-01T02:00:00+02:00", np.datetime64("2014-02-20")),
            (datetime.date(2014, 2, 1), datetime.datetime(2014, 2, 20, tzinfo=utc)),
        ):
            for given_order in (None, order):
                split = split_edges(graph, dates=dates, order=given_order)
                train, val, test = parts_of(split)
                assert (len(train), len(val), len(test)) == (31, 19, 10), (name, dates)
                check_partition(graph, split)
        last_only = split_edges(graph, dates=("2014-02-20",))
        assert [len(part) for part in parts_of(last_only)] == [50, 10, 0], name
        for stratify, order_given in (("user", order), ("time", order)):
            assert split_edges(
                graph, (0.6, 0.2, 0.2), stratify=stratify, order=order_given
            ).test.positives.num_edges


@settings(deadline=None, max_examples=100)
@given(ordered_graphs(), st.integers(-1, 14), st.integers(-1, 14))
def test_numbers_cut_as_a_loop_does(
    case: tuple[Interactions, torch.Tensor], first: int, second: int
) -> None:
    graph, order = case
    split = split_or_refusal(graph, dates=(first, second), order=order)
    expected: list[set[Edge]] = [set(), set(), set()]
    for edge, time in times_of(graph, order).items():
        expected[(time >= first) + (time >= second)].add(edge)
    refused = first >= second or not all(expected)
    assert isinstance(split, str) == refused
    if isinstance(split, Split):
        assert list(parts_of(split)) == expected


def test_the_unit_is_told_by_magnitude() -> None:
    for unit, each in UNITS.items():
        order = torch.from_numpy(DAYS.astype("datetime64[ns]").astype(np.int64) // each)
        assert time_unit(order) == (unit, each)
        assert time_range(order) == "2014-01-01 to 2014-03-01"
        with_faults = torch.cat([torch.tensor([0, 2**62]), order])
        assert time_unit(with_faults) == (unit, each)
    for other in (torch.arange(50), torch.tensor([20140101, 20140131]), torch.empty(0).long()):
        assert time_unit(other) is None


def test_what_is_refused_names_the_argument_and_the_value() -> None:
    seconds = torch.from_numpy(DAYS.astype("datetime64[s]").astype(np.int64))
    plain, places = dated(None), dated(torch.arange(60))
    timed = dated(seconds)
    same = dated(torch.full((60,), 1_400_000_000))
    cases: tuple[tuple[Interactions, dict[str, Any], tuple[str, ...]], ...] = (
        (timed, {"ratios": (0.9, 0.1), "leave_out": (1, 1)}, ("ratios", "leave_out")),
        (timed, {"leave_out": (1,), "dates": ("2014-02-01",)}, ("leave_out", "dates")),
        (timed, {"leave_out": (1, 1), "stratify": "time"}, ("leave_out", "time")),
        (timed, {"dates": ("2014-02-01",), "stratify": "user"}, ("dates", "user")),
        (timed, {"leave_out": 1}, ("leave_out", "1")),
        (timed, {"leave_out": (1, 1, 1)}, ("leave_out", "(1, 1, 1)")),
        (timed, {"leave_out": (1, -1)}, ("leave_out[1]", "-1")),
        (timed, {"leave_out": (True, 1)}, ("leave_out[0]", "True")),
        (timed, {"leave_out": (0, 0)}, ("leave_out", "(0, 0)")),
        (timed, {"leave_out": (1, 6)}, ("leave_out=(1, 6)", "8 edges", "6")),
        (plain, {"stratify": "time"}, ("time", "no order")),
        (plain, {"dates": ("2014-02-01",)}, ("dates", "no order")),
        (same, {"stratify": "time"}, ("ratios", "2014-05-13T16:53:20", "1 time,")),
        (timed, {"dates": "2014-02-01"}, ("dates", "2014-02-01")),
        (timed, {"dates": ("soon",)}, ("dates[0]", "soon")),
        (timed, {"dates": (None,)}, ("dates[0]", "None")),
        (timed, {"dates": (True,)}, ("dates[0]", "True")),
        (timed, {"dates": (float("nan"),)}, ("dates[0]", "nan")),
        (timed, {"dates": (np.datetime64("NaT"),)}, ("dates[0]", "NaT")),
        (timed, {"dates": ("2014-02-01", "2014-02-01")}, ("dates", "2014-02-01")),
        (
            timed,
            {"dates": ("2015-01-01",)},
            ("validation", "2015-01-01", "2014-01-01 to 2014-03-01"),
        ),
        (timed, {"dates": ("2013-01-01",)}, ("train", "2013-01-01", "2014-01-01 to 2014-03-01")),
        (timed, {"dates": ("2014-02-01", "2015-01-01")}, ("test", "2015-01-01")),
        (timed, {"dates": ("2014-02-01T01", "2014-02-01T02")}, ("validation", "2014-02-01T01")),
        (places, {"dates": ("2014-02-01",)}, ("dates[0]", "2014-02-01", "0 to 59")),
        (places, {"dates": (60,)}, ("60", "0 to 59")),
    )
    for graph, options, said in cases:
        with pytest.raises(ValueError) as refused:
            split_edges(graph, **options)
        for part in said:
            assert part in str(refused.value), (options, str(refused.value))


def test_users_without_a_train_edge_stay_in_a_cut_in_time() -> None:
    users = torch.cat([torch.zeros(8), torch.ones(2)]).long()
    graph = Interactions(users, torch.tensor([*range(8), 3, 9]), 2, 12, order=torch.arange(10))
    split = split_edges(graph, (0.8, 0.1, 0.1), stratify="time")
    assert parts_of(split)[1:] == ({(1, 3)}, {(1, 9)})
    assert split.val.message.user_degrees.tolist() == [8, 0]
