"""Cut a dataset to a part to train on, step by step, with its size after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.datasets import Dataset
from lightgcn.graph.names import NodeNames
from lightgcn.graph.subgraph import (
    GraphStatistics,
    Nodes,
    ego_graph,
    graph_statistics,
    k_core,
    largest_component,
    locality_order,
    random_users,
    rank_users_by_popularity,
)


@dataclass(frozen=True)
class Cuts:
    """The part of a dataset to keep; steps in this order, None and False leave one out.

    Attributes:
        sample: number of users to draw at random, with their items.
        k_core: least number of edges of each user and item, among those kept.
        largest_component: the largest connected component.
        tie_by: column of the items whose equal values tie items together in that component, such as
            "artist_id".
        ego: the nodes within ``hops`` edges of a user: an id or unique name, or "#1" for the user
            whose items are the most popular on average, "#2" for the next.
        hops: radius of ``ego``; None for 3.
        seed: of the sample; None for 0.
    """

    sample: int | None = None
    k_core: int | None = None
    largest_component: bool = False
    tie_by: str | None = None
    ego: str | None = None
    hops: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Step:
    """A step of a preparation, and the statistics of the graph after it."""

    name: str
    statistics: GraphStatistics
    test_edges: int | None = None


def prepare_dataset(dataset: Dataset, cuts: Cuts) -> tuple[Dataset, list[Step]]:
    """Cut a dataset and renumber its nodes by `locality_order`; return it and its steps.

    Raises:
        ValueError: as the functions of `lightgcn.graph.subgraph`, `Dataset.groups` and
            `NodeNames.find` do, if ``tie_by`` is given without ``largest_component``, or no edge is
            left.
    """
    if cuts.tie_by is not None and not cuts.largest_component:
        raise ValueError(
            f"tie_by={cuts.tie_by!r} needs largest_component, and has no effect without it"
        )
    if cuts.ego is None and cuts.hops is not None:
        raise ValueError(f"hops={cuts.hops!r} needs a user to start from: give ego")
    if cuts.sample is None and cuts.seed is not None:
        raise ValueError(f"seed={cuts.seed!r} needs a number of users to draw: give sample")
    hops = 3 if cuts.hops is None else checked_count("hops", cuts.hops)
    steps = [_step("read", dataset)]

    def cut(name: str, nodes: Nodes) -> None:
        nonlocal dataset
        dataset = dataset.reindex(*nodes)
        steps.append(_step(name, dataset))
        if not dataset.interactions.num_edges:
            raise ValueError(f"no interaction is left ({name})")

    if cuts.sample is not None:
        cut(
            f"sample of {cuts.sample}",
            random_users(dataset.interactions, cuts.sample, seed=cuts.seed or 0),
        )
    if cuts.k_core is not None:
        cut(f"{cuts.k_core}-core", k_core(dataset.interactions, cuts.k_core))
    if cuts.largest_component:
        groups: Tensor | None = None if cuts.tie_by is None else dataset.groups(cuts.tie_by)
        name = "largest component" + (f", tied by {cuts.tie_by}" if cuts.tie_by else "")
        cut(name, largest_component(dataset.interactions, groups))
    if cuts.ego is not None:
        user = _ego_user(dataset, cuts.ego)
        cut(
            f"{hops} hops around {_label(dataset, user)}",
            ego_graph(dataset.interactions, user, hops),
        )
    if not dataset.interactions.num_edges:
        raise ValueError("no interaction is left (read)")
    return dataset.reindex(*locality_order(dataset.interactions)), steps


def _step(name: str, dataset: Dataset) -> Step:
    test = None if dataset.test is None else dataset.test.num_edges
    return Step(name, graph_statistics(dataset.interactions), test)


def _ego_user(dataset: Dataset, wanted: str) -> int:
    graph = dataset.interactions
    rank = wanted.removeprefix("#")
    if rank != wanted and rank.isdecimal():
        if not 1 <= int(rank) <= graph.num_users:
            raise ValueError(f"ego {wanted!r}: ranks are #1 to #{graph.num_users}")
        return int(rank_users_by_popularity(graph)[int(rank) - 1])
    return NodeNames("user", graph, dataset.users).find(wanted)


def _label(dataset: Dataset, user: int) -> str:
    ids: Any = dataset.interactions.user_ids
    own = user if ids is None else ids[user]
    name = " ".join(dataset.users["name"][user].split()) if "name" in dataset.users else ""
    return f"{own}" + (f' "{name}"' if name else "")
