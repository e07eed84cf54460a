import json
import time

import numpy as np
import pytest
import torch

from lightgcn.datasets import read_mpd, synthetic_interactions, write_synthetic_mpd

SMALL = {"num_playlists": 130, "num_tracks": 900, "mean_length": 20.0, "slice_size": 50, "seed": 3}
PLAYLIST_FIELDS = (
    "name, collaborative, pid, modified_at, num_tracks, num_albums, num_followers, tracks, "
    "num_edits, duration_ms, "
    "num_artists"
)
TRACK_FIELDS = (
    "pos, artist_name, track_uri, artist_uri, track_name, album_uri, duration_ms, album_name"
)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return write_synthetic_mpd(tmp_path_factory.mktemp("mpd"), **SMALL)


def test_files_are_named_and_numbered_as_the_original(slices):
    assert [path.name for path in slices] == [
        "mpd.slice.0-49.json",
        "mpd.slice.50-99.json",
        "mpd.slice.100-129.json",
    ]
    assert sorted(path.name for path in slices[0].parent.iterdir()) == sorted(
        path.name for path in slices
    )


def test_every_field_of_the_format_is_there_and_true(slices):
    pid, described, repeated = 0, 0, 0
    for path in slices:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
        assert text == json.dumps(document, indent=4, ensure_ascii=False)
        assert document["info"].keys() == {"generated_on", "slice", "version"}
        assert document["info"]["slice"] == path.name.split(".")[2]
        for record in document["playlists"]:
            described += "description" in record
            assert ", ".join(key for key in record if key != "description") == PLAYLIST_FIELDS
            tracks = record["tracks"]
            assert record["pid"] == pid
            assert record["collaborative"] in ("true", "false")
            assert [entry["pos"] for entry in tracks] == list(range(len(tracks)))
            assert all(", ".join(entry) == TRACK_FIELDS for entry in tracks)
            assert record["num_tracks"] == len(tracks) > 0
            assert record["num_albums"] == len({entry["album_uri"] for entry in tracks})
            assert record["num_artists"] == len({entry["artist_uri"] for entry in tracks})
            assert record["duration_ms"] == sum(entry["duration_ms"] for entry in tracks)
            repeated += len({entry["track_uri"] for entry in tracks}) < len(tracks)
            pid += 1
    assert pid == 130
    assert 0 < described < 30
    assert 0 < repeated < 30


def test_a_track_has_one_artist_and_one_album_everywhere(slices):
    seen = {}
    for path in slices:
        for record in json.loads(path.read_text(encoding="utf-8"))["playlists"]:
            for entry in record["tracks"]:
                facts = {key: entry[key] for key in TRACK_FIELDS.split(", ") if key != "pos"}
                assert seen.setdefault(entry["track_uri"], facts) == facts
    assert all(len(uri.removeprefix("spotify:track:")) == 22 for uri in seen)


def test_the_reader_finds_the_declared_counts(slices):
    dataset = read_mpd(slices[0].parent)
    declared = [length for path in slices for length in column(path, "num_tracks")]
    info = dataset.info
    assert (info["slices"], info["playlists"], info["entries"]) == (3, 130, sum(declared))
    assert info["duplicate_entries"] == info["entries"] - info["edges"] > 0
    assert dataset.interactions.num_items <= 900
    assert abs(np.mean(declared) - 20) < 4
    assert all(dataset.users["name"])
    assert all(all(column) for column in dataset.items.values())


def test_compact_files_hold_the_same_in_fewer_bytes(slices, tmp_path):
    compact = write_synthetic_mpd(tmp_path, indent=False, **SMALL)
    for one, other in zip(slices, compact, strict=True):
        assert json.loads(one.read_bytes()) == json.loads(other.read_bytes())
        assert other.stat().st_size < 0.7 * one.stat().st_size
        assert b"\n" not in other.read_bytes()


def column(path, key):
    return [record[key] for record in json.loads(path.read_bytes())["playlists"]]


def test_the_seed_determines_the_files(slices, tmp_path):
    for folder, seed, same in (("a", 3, True), ("b", 4, False)):
        again = write_synthetic_mpd(tmp_path / folder, **(SMALL | {"seed": seed}))
        assert [path.name for path in again] == [path.name for path in slices]
        assert [a.read_bytes() == b.read_bytes() for a, b in zip(again, slices, strict=True)] == [
            same
        ] * 3
        assert [
            column(a, "modified_at") == column(b, "modified_at")
            for a, b in zip(again, slices, strict=True)
        ] == [same] * 3


@pytest.mark.parametrize(("num_playlists", "num_tracks"), [(1, 1), (3, 2), (2, 60)])
def test_tiny_worlds(tmp_path, num_playlists, num_tracks):
    write_synthetic_mpd(tmp_path, num_playlists=num_playlists, num_tracks=num_tracks)
    graph = read_mpd(tmp_path).interactions
    assert graph.num_users == num_playlists
    assert 1 <= graph.num_items <= num_tracks


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_playlists": 0}, "num_playlists must be an integer of at least 1, got 0"),
        ({"num_tracks": -5}, "num_tracks must be an integer of at least 1, got -5"),
        ({"slice_size": 2.5}, "slice_size must be an integer of at least 1, got 2.5"),
        ({"mean_length": 0.5}, r"mean_length must be in \[1, 200\], got 0.5"),
        ({"mean_length": float("nan")}, r"mean_length must be in \[1, 200\], got nan"),
        ({"seed": -1}, "seed must be a non-negative integer"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        write_synthetic_mpd(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("users", "items", "edges"),
    [
        (50, 80, 1),
        (50, 80, 1000),
        (50, 80, 3999),
        (50, 80, 4000),
        (1, 1, 1),
        (1, 300, 200),
        (300, 1, 7),
        (3000, 4000, 50_000),
    ],
)
def test_the_graph_has_exactly_the_edges_asked_for(users, items, edges):
    graph = synthetic_interactions(users, items, edges, seed=1)
    assert (graph.num_users, graph.num_items, graph.num_edges) == (users, items, edges)
    assert len(set(zip(*graph.edge_index.tolist(), strict=True))) == edges


def test_the_graph_depends_on_the_seed_alone():
    torch.manual_seed(0)
    one = synthetic_interactions(200, 300, 2000, seed=5).fingerprint()
    torch.manual_seed(1)
    assert synthetic_interactions(200, 300, 2000, seed=5).fingerprint() == one
    assert synthetic_interactions(200, 300, 2000, seed=6).fingerprint() != one


@pytest.mark.parametrize("options", [(0, 5, 1), (5, 0, 1), (5, 5, 0), (5, 5, 26)])
def test_impossible_graphs_are_refused(options):
    with pytest.raises(ValueError, match="num_"):
        synthetic_interactions(*options)


def test_neighbours_know_more_than_popularity():
    """Recall@20 of held-out edges: user neighbourhoods find far more than the most popular items
    do."""
    graph = synthetic_interactions(1500, 2000, 45_000, seed=2)
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    train = graph.select(order[9000:]).to_scipy().toarray()
    held_out = graph.select(order[:9000]).to_scipy().toarray()
    popularity = train.sum(0)
    weighted = train / np.sqrt(np.maximum(popularity, 1))

    def recall(scores):
        top = np.argsort(-np.where(train > 0, -1, scores), axis=1, kind="stable")[:, :20]
        relevant = held_out.sum(1)
        hits = np.take_along_axis(held_out, top, axis=1).sum(1)
        return (hits[relevant > 0] / relevant[relevant > 0]).mean()

    popular = recall(np.broadcast_to(popularity, train.shape))
    assert recall(weighted @ weighted.T @ train) > 1.8 * popular


def test_a_million_edges_take_seconds_not_minutes():
    started = time.perf_counter()
    assert synthetic_interactions(40_000, 50_000, 1_000_000).num_edges == 1_000_000
    assert time.perf_counter() - started < 15  # about one on an idle core
