import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lightgcn.core.tensor_file import load_tensors, save_tensors
from lightgcn.datasets import Dataset, synthetic_interactions
from lightgcn.graph.interactions import Interactions


def graph(pairs, *, weights=None, user_ids=None, item_ids=None):
    edge_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return Interactions.from_edge_index(
        edge_index, 3, 4, weights=weights, user_ids=user_ids, item_ids=item_ids
    )


def example():
    train = graph(
        [(0, 1), (0, 3), (2, 0)],
        weights=torch.tensor([0.5, 2.0, 3.25]),
        user_ids=[70, 5, 2**62],
        item_ids=["a", "ü", "c " * 50, '"d"'],
    )
    return Dataset(
        train,
        {"name": ["first", "", "naïve \U0001f3b5"]},
        {"name": list("wxyz"), "artist": ["p", "p", "q", ""]},
        graph([(1, 1), (0, 2)]),
        {"format": "test", "counts": {"entries": 3}},
    )


def assert_same(one, other):
    for left, right in ((one.interactions, other.interactions), (one.test, other.test)):
        assert (left is None) == (right is None)
        if left is None:
            continue
        assert left.fingerprint() == right.fingerprint()
        assert (left.weights is None) == (right.weights is None)
        for name in ("user_ids", "item_ids"):
            a, b = getattr(left, name), getattr(right, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.tolist() == b.tolist()
                assert list(map(type, a.tolist())) == list(map(type, b.tolist()))
    assert (one.users, one.items, one.info) == (other.users, other.items, other.info)


def test_round_trip_keeps_edges_weights_ids_columns_test_and_info(tmp_path):
    dataset = example()
    assert dataset.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    loaded = Dataset.load(str(tmp_path / "new" / "folder"))
    assert_same(dataset, loaded)
    assert loaded.interactions.weights.dtype == torch.float32
    assert loaded.interactions.user_ids.dtype == np.int64
    assert loaded.test.item_ids.tolist() == ["a", "ü", "c " * 50, '"d"']


def test_round_trip_keeps_float64_weights(tmp_path):
    weights = torch.tensor([0.1, 1 / 3], dtype=torch.float64)
    Dataset(graph([(0, 0), (1, 1)], weights=weights), {}, {}).save(tmp_path)
    assert torch.equal(Dataset.load(tmp_path).interactions.weights, weights)


@pytest.mark.parametrize("pairs", [[], [(2, 3)]])
def test_round_trip_without_ids_columns_or_edges(tmp_path, pairs):
    dataset = Dataset(graph(pairs), {}, {})
    dataset.save(tmp_path)
    assert_same(dataset, Dataset.load(tmp_path))


def test_load_needs_only_the_one_file(tmp_path):
    example().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.json",
        "dataset.safetensors",
    ]
    (tmp_path / "dataset.json").unlink()
    assert_same(example(), Dataset.load(tmp_path))


def test_summary_is_readable(tmp_path):
    example().save(tmp_path)
    summary = json.loads((tmp_path / "dataset.json").read_text())
    assert (summary["users"], summary["items"], summary["edges"], summary["test_edges"]) == (
        3,
        4,
        3,
        2,
    )
    assert (summary["user_ids"], summary["item_ids"], summary["weighted"]) == (
        "integers",
        "strings",
        True,
    )
    assert summary["info"] == {"format": "test", "counts": {"entries": 3}}


def test_reindex_keeps_columns_ids_and_test_in_step():
    dataset = example().reindex(torch.tensor([2, 0]), torch.tensor([3, 0, 2]))
    assert dataset.interactions.edge_index.tolist() == [[0, 1], [1, 0]]
    assert dataset.interactions.weights.tolist() == [3.25, 2.0]
    assert dataset.interactions.user_ids.tolist() == [2**62, 70]
    assert dataset.users == {"name": ["naïve \U0001f3b5", "first"]}
    assert dataset.items == {"name": ["z", "w", "y"], "artist": ["", "p", "q"]}
    assert dataset.test.edge_index.tolist() == [[1], [2]]
    assert dataset.test.user_ids.tolist() == [2**62, 70]
    dropped = {"dropped_users": 1, "dropped_items": 1, "dropped_edges": 1, "dropped_test_edges": 1}
    assert dataset.info == example().info | dropped


@pytest.mark.parametrize(
    ("users", "items", "says"),
    [
        ({"name": ["a", "b"]}, {}, "users['name'] has 2 values for 3 users"),
        ({}, {"artist": list("abcde")}, "items['artist'] has 5 values for 4 items"),
        ({}, {"artist": ["a", None, "c", "d"]}, "items['artist'][1] is None"),
        ({"name": "abc"}, {}, "users['name'] must be a list"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(users, items, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Dataset(graph([(0, 0)]), users, items)


def test_a_test_split_over_other_nodes_is_refused():
    with pytest.raises(ValueError, match="test must be over the nodes"):
        Dataset(
            graph([(0, 0)]), {}, {}, Interactions.from_edge_index(torch.tensor([[0], [0]]), 3, 5)
        )


def test_a_test_split_with_other_ids_is_refused():
    train, test = graph([(0, 0)], user_ids=[1, 2, 3]), graph([(0, 1)], user_ids=[1, 3, 2])
    with pytest.raises(ValueError, match=r"test\.user_ids differ"):
        Dataset(train, {}, {}, test)


@pytest.mark.parametrize("info", [{"when": object()}, {1: "key"}, {"big": 2**70}])
def test_info_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, info):
    with pytest.raises(
        ValueError, match=r"dataset\.safetensors: the dataset cannot be written as JSON"
    ):
        Dataset(graph([]), {}, {}, None, info).save(tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.safetensors").exists()


def test_a_column_that_is_no_unicode_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"dataset\.safetensors: the dataset cannot be written as JSON"
    ):
        Dataset(graph([]), {"name": ["\ud800", "", ""]}, {}).save(tmp_path)


def test_loading_from_a_folder_without_the_file_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.safetensors"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    example().save(tmp_path)
    path = tmp_path / "dataset.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Dataset.load(tmp_path)


def json_tensor(text):
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


EDITS = {
    "no edges": lambda tensors, meta: tensors.pop("train.items"),
    "no column": lambda tensors, meta: tensors.pop("item_column.artist"),
    "no users": lambda tensors, meta: tensors.pop("train.users"),
    "users too few": lambda tensors, meta: tensors.update({"train.users": torch.tensor([0, 0])}),
    "users not sorted": lambda tensors, meta: tensors.update(
        {"train.users": torch.tensor([2, 0, 0])}
    ),
    "users of floats": lambda tensors, meta: tensors.update(
        {"train.users": torch.tensor([0.0, 0, 2])}
    ),
    "users narrow": lambda tensors, meta: tensors.update(
        {"train.users": torch.tensor([0, 0, 2]).int()}
    ),
    "users scalar": lambda tensors, meta: tensors.update({"train.users": torch.tensor(0)}),
    "user out of range": lambda tensors, meta: tensors.update(
        {"train.users": torch.tensor([0, 0, 3])}
    ),
    "item out of range": lambda tensors, meta: tensors.update(
        {"train.items": torch.tensor([1, 4, 0])}
    ),
    "item repeated": lambda tensors, meta: tensors.update({"train.items": torch.tensor([1, 1, 0])}),
    "weight not finite": lambda tensors, meta: tensors.update(
        {"train.weights": torch.tensor([1, float("nan"), 1])}
    ),
    "weights too few": lambda tensors, meta: tensors.update({"train.weights": torch.tensor([1.0])}),
    "test out of range": lambda tensors, meta: tensors.update({"test.items": torch.tensor([1, 9])}),
    "ids too few": lambda tensors, meta: tensors.update({"user_ids": json_tensor("[1, 2]")}),
    "ids repeated": lambda tensors, meta: tensors.update({"user_ids": json_tensor("[1, 2, 1]")}),
    "ids mixed": lambda tensors, meta: tensors.update({"user_ids": json_tensor('[1, "b", 3]')}),
    "ids too large": lambda tensors, meta: tensors.update(
        {"user_ids": json_tensor("[1, 2, 18446744073709551615]")}
    ),
    "ids no list": lambda tensors, meta: tensors.update({"user_ids": json_tensor('{"a": 1}')}),
    "ids no JSON": lambda tensors, meta: tensors.update({"user_ids": json_tensor("[1, 2")}),
    "column of numbers": lambda tensors, meta: tensors.update(
        {"user_column.name": json_tensor("[1, 2, 3]")}
    ),
    "column too long": lambda tensors, meta: tensors.update(
        {"user_column.name": json_tensor('["", "", "", ""]')}
    ),
    "no counts": lambda tensors, meta: meta.pop("num_users"),
    "count of another kind": lambda tensors, meta: meta.update(num_users="3"),
    "count negative": lambda tensors, meta: meta.update(num_items=-1),
    "columns no list": lambda tensors, meta: meta.update(user_columns=7),
    "info no object": lambda tensors, meta: meta.update(info=[1]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_a_hand_edited_file_is_refused_by_name(tmp_path, edit):
    example().save(tmp_path)
    path = tmp_path / "dataset.safetensors"
    tensors, metadata = load_tensors(path, "dataset")
    edit(tensors, metadata)
    save_tensors(path, "dataset", tensors, metadata)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        Dataset.load(tmp_path)


def test_metadata_that_is_no_object_is_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    header = {"lightgcn": '{"kind": "dataset", "version": 2, "metadata": []}'}
    save_file({"x": torch.zeros(1)}, tmp_path / "dataset.safetensors", metadata=header)
    with pytest.raises(ValueError, match=r"dataset\.safetensors: "):
        Dataset.load(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_tensors(tmp_path / "dataset.safetensors", "recommender", {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds a recommender, expected a dataset"):
        Dataset.load(tmp_path)


def test_a_fingerprint_covers_the_test_split():
    train = graph([(0, 1), (0, 3), (2, 0)])
    plain = Dataset(train, {}, {})
    one, other = (Dataset(train, {}, {}, graph(pairs)) for pairs in ([(1, 1)], [(1, 2)]))
    assert plain.fingerprint() == train.fingerprint()
    assert len({plain.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    assert (
        one.fingerprint()
        == Dataset(train, {"name": list("abc")}, {}, graph([(1, 1)])).fingerprint()
    )


def test_reindex_keeps_info_true_and_counts_what_it_drops():
    info = {
        "format": "x",
        "entries": 9,
        "playlists": 3,
        "tracks": 4,
        "edges": 3,
        "empty_playlists": 1,
        "test_edges": 3,
    }
    info["test_edges_also_in_train"] = 1
    test = graph([(1, 1), (0, 2), (0, 1)])
    whole = Dataset(graph([(0, 1), (0, 3), (2, 0)]), {}, {}, test, info)
    part = whole.reindex(torch.tensor([0, 1]), torch.tensor([1, 3]))
    assert part.test.num_edges == 2
    assert part.info == info | {
        "playlists": 2,
        "tracks": 2,
        "edges": 2,
        "empty_playlists": 1,
        "test_edges": 2,
        "test_edges_also_in_train": 1,
        "dropped_users": 1,
        "dropped_items": 2,
        "dropped_edges": 1,
        "dropped_test_edges": 1,
    }
    again = part.reindex(torch.tensor([1]), torch.tensor([0, 1]))
    assert (
        again.info["dropped_users"],
        again.info["dropped_edges"],
        again.info["dropped_test_edges"],
    ) == (2, 3, 2)
    assert whole.info == info


@pytest.mark.slow
def test_the_edges_of_a_file_are_mapped_and_not_copied(tmp_path):
    graph = synthetic_interactions(3000, 2000, 400_000, seed=3)
    Dataset(graph, {}, {}).save(tmp_path)
    path = tmp_path / "dataset.safetensors"
    loaded = Dataset.load(tmp_path).interactions
    assert (
        torch.equal(loaded.edge_index, graph.edge_index)
        and loaded.fingerprint() == graph.fingerprint()
    )
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("looks for mapped files in /proc")
    ranges = [
        line.split()[0].split("-")
        for line in maps.read_text().splitlines()
        if line.endswith(str(path))
    ]
    for tensor in (loaded.users, loaded.items):
        assert any(int(first, 16) <= tensor.data_ptr() < int(last, 16) for first, last in ranges)
    # What is written anew is another file, and what is changed in memory is not changed in the
    # file.
    Dataset(synthetic_interactions(30, 20, 40), {}, {}).save(tmp_path)
    assert torch.equal(loaded.edge_index, graph.edge_index)


def test_a_file_that_holds_edges_as_older_versions_did_says_so(tmp_path):
    example().save(tmp_path)
    path = tmp_path / "dataset.safetensors"
    tensors, metadata = load_tensors(path, "dataset")
    tensors.pop("train.users")
    save_tensors(path, "dataset", tensors | {"train.indptr": torch.tensor([0, 2, 2, 3])}, metadata)
    with pytest.raises(ValueError, match=r"older version .*prepare the data again$"):
        Dataset.load(tmp_path)
