"""Cutting a dataset: the steps, their order, and the sizes that are told of them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

from lightgcn import Interactions
from lightgcn.cli import main as cli
from lightgcn.datasets import Dataset
from lightgcn.datasets.preprocess import Cuts, prepare_dataset
from lightgcn.graph.subgraph import graph_statistics

# Two components, 3 users each, tied by an artist; the second has an item of no user and one edge
# more.
PAIRS = [(0, 0), (1, 0), (1, 1), (2, 1), (3, 2), (4, 2), (4, 3), (5, 3), (5, 4), (3, 3)]
ARTISTS = ["a", "b", "b", "c", "", "c"]


def a_dataset() -> Dataset:
    index = torch.tensor(PAIRS).T
    graph = Interactions.from_edge_index(
        index, 6, 6, user_ids=list("uvwxyz"), item_ids=list("ABCDEF")
    )
    names = {"name": [f"list {letter}" for letter in "uvwxyz"]}
    return Dataset(graph, names, {"artist": ARTISTS})


def ids_of(dataset: Dataset) -> tuple[str, str]:
    graph = dataset.interactions
    assert graph.user_ids is not None and graph.item_ids is not None
    return "".join(sorted(graph.user_ids)), "".join(sorted(graph.item_ids))


def test_groups_of_a_column() -> None:
    assert a_dataset().groups("artist").tolist() == [0, 1, 1, 2, -1, 2]
    with pytest.raises(ValueError, match="items have no column 'genre'; there are artist"):
        a_dataset().groups("genre")


def test_each_cut() -> None:
    for cuts, kept, names in (
        (Cuts(), ("uvwxyz", "ABCDEF"), ["read"]),
        (Cuts(largest_component=True), ("xyz", "CDE"), ["read", "largest component"]),
        (
            Cuts(largest_component=True, tie_by="artist"),
            ("uvwxyz", "ABCDEF"),
            ["read", "largest component, tied by artist"],
        ),
        (Cuts(k_core=2), ("xy", "CD"), ["read", "2-core"]),
        (Cuts(ego="u", hops=2), ("uv", "A"), ["read", '2 hops around u "list u"']),
        (Cuts(ego="list u"), ("uv", "AB"), ["read", '3 hops around u "list u"']),
        # Items have 2, 2, 2, 3, 1 users: list x and y have 2.5 on average, and the first of equals
        # is taken.
        (Cuts(ego="#1", hops=1), ("x", "CD"), ["read", '1 hops around x "list x"']),
        (Cuts(ego="#2", hops=1), ("y", "CD"), ["read", '1 hops around y "list y"']),
    ):
        dataset, steps = prepare_dataset(a_dataset(), cuts)
        assert ids_of(dataset) == kept
        assert [step.name for step in steps] == names
        last = steps[-1].statistics
        assert (last.users, last.items, last.edges) == (
            len(kept[0]),
            len(kept[1]),
            dataset.interactions.num_edges,
        )


def test_a_sample_comes_first() -> None:
    dataset, steps = prepare_dataset(a_dataset(), Cuts(sample=4, largest_component=True, seed=3))
    assert [step.name for step in steps] == ["read", "sample of 4", "largest component"]
    assert steps[1].statistics.users == 4 and steps[1].statistics.item_degrees.isolated == 0
    again, _ = prepare_dataset(a_dataset(), Cuts(sample=4, largest_component=True, seed=3))
    assert ids_of(dataset) == ids_of(again)


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hops=3 .*ego"):
        prepare_dataset(a_dataset(), Cuts(hops=3))
    with pytest.raises(ValueError, match=r"seed=5 .*sample"):
        prepare_dataset(a_dataset(), Cuts(seed=5))
    with pytest.raises(ValueError, match="hops must be a non-negative integer, got -1"):
        prepare_dataset(a_dataset(), Cuts(ego="#1", hops=-1))
    with pytest.raises(ValueError, match=r"no interaction is left"):
        prepare_dataset(a_dataset(), Cuts(k_core=10**30))


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (Cuts(tie_by="artist"), "tie_by='artist' needs largest_component"),
        (Cuts(largest_component=True, tie_by="genre"), "no column 'genre'"),
        (Cuts(k_core=9), r"no interaction is left \(9-core\)"),
        (Cuts(ego="nobody"), "unknown user 'nobody'"),
        (Cuts(ego="#0"), "ranks are #1 to #6"),
        (Cuts(ego="#7"), "ranks are #1 to #6"),
        (Cuts(ego="u", hops=0), "no interaction is left"),
        (Cuts(sample=7), r"count must be in \[1, 6\]"),
    ],
)
def test_wrong_cuts(cuts: Cuts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_dataset(a_dataset(), cuts)


def test_statistics_against_the_standard_library() -> None:
    graph = a_dataset().interactions
    found = graph_statistics(graph)
    for side, degrees in ((0, found.user_degrees), (1, found.item_degrees)):
        counts = [sum(pair[side] == node for pair in PAIRS) for node in range(6)]
        assert degrees.mean == pytest.approx(statistics.mean(counts))
        assert degrees.median == statistics.median_low(counts)
        assert (
            degrees.percentile_90 == sorted(counts)[5]
        )  # the sixth of six: 5 are too few for nine tenths
        assert (degrees.most, degrees.isolated) == (max(counts), counts.count(0))
    assert found.density == len(PAIRS) / 36
    empty = graph_statistics(
        Interactions.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 0, 0)
    )
    assert empty.density == 0 and empty.user_degrees.most == 0


def test_the_command_tells_sizes_and_degrees(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = [
        "--sample",
        "200",
        "--largest-component",
        "--tie-by",
        "artist_id",
        "--ego",
        "#3",
        "--hops",
        "2",
    ]
    assert cli.main(["prepare", str(slices), str(tmp_path / "out"), *cuts]) == 0
    text = capsys.readouterr().out
    assert (
        "sample of 200" in text
        and "largest component, tied by artist_id" in text
        and "2 hops around" in text
    )
    assert text.count("edges of a user: mean ") == text.count("edges of an item: mean ") == 4
    assert cli.main(["prepare", str(slices), str(tmp_path / "two"), *cuts, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert steps[1]["users"] == 200 and steps[3]["user_degrees"]["mean"] > 0
    assert Dataset.load(tmp_path / "two").interactions.num_edges == steps[3]["edges"]
    assert cli.main(["prepare", str(slices), str(tmp_path / "none"), "--ego", "nobody"]) == 2
    assert "unknown user 'nobody'" in capsys.readouterr().err and not (tmp_path / "none").exists()
