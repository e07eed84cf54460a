from collections import Counter
from dataclasses import replace

import pytest
import torch

from lightgcn.challenge import TASKS, ChallengePlaylist, make_challenge
from lightgcn.datasets import Dataset


def playlists_of(dataset):
    """pid to the URIs of its tracks in order, and to its title, by a loop."""
    graph, tracks = dataset.interactions, {}
    rows = zip(graph.users.tolist(), graph.order.tolist(), graph.items.tolist(), strict=True)
    for user, place, item in sorted(rows):
        tracks.setdefault(int(graph.user_ids[user]), []).append((graph.item_ids[item], place))
    return tracks, dict(zip(graph.user_ids.tolist(), dataset.users["name"], strict=True))


def test_ten_tasks_as_they_were_set(challenge, with_order):
    tracks, titles = playlists_of(with_order)
    tracks = {
        pid: [(uri, place) for place, (uri, _) in enumerate(entries)]
        for pid, entries in tracks.items()
    }
    assert Counter(playlist.task for playlist in challenge.playlists) == {
        task.name: 5 for task in TASKS
    }
    by_name = {task.name: task for task in TASKS}
    for playlist in challenge.playlists:
        task, whole = by_name[playlist.task], tracks[playlist.pid]
        assert playlist.title == (titles[playlist.pid] if task.title else None)
        assert len(playlist.seeds) == task.seeds
        told = list(zip(playlist.seeds, playlist.places, strict=True))
        assert told == [entry for entry in whole if entry in told]
        if not task.random:
            assert told == whole[: task.seeds]
        hidden = [uri for uri, _ in whole if uri not in playlist.seeds]
        assert list(challenge.holdouts[playlist.pid]) == hidden
        assert playlist.num_holdouts == len(hidden) >= 5


def test_random_tasks_are_not_the_first(challenge):
    random = [playlist for playlist in challenge.playlists if "random" in playlist.task]
    assert any(max(playlist.places) > len(playlist.places) for playlist in random)


def test_what_is_left_to_learn_from_knows_nothing_of_the_playlists(challenge, with_order):
    train, pids = challenge.train.interactions, {playlist.pid for playlist in challenge.playlists}
    assert len(pids) == 50
    assert not pids & set(train.user_ids.tolist())
    assert train.num_users == with_order.interactions.num_users - 50
    assert int(train.item_degrees.min()) > 0
    tracks, _ = playlists_of(with_order)
    left, _ = playlists_of(challenge.train)
    assert left == {pid: entries for pid, entries in tracks.items() if pid not in pids}


def test_artists_are_those_of_the_tracks(challenge, with_order):
    pairs = zip(
        with_order.interactions.item_ids.tolist(), with_order.items["artist_id"], strict=True
    )
    assert challenge.artists == dict(pairs)


def test_tasks_are_those_that_were_set_where_tracks_are_repeated_or_left_out(with_order):
    graph = with_order.interactions
    order = graph.order.clone()
    order[order >= 1] += 3  # as where the first track comes again at places 1 to 3
    kept = (torch.arange(graph.num_items) % 5 > 0).nonzero().flatten()
    for dataset in (
        Dataset(replace(graph, order=order), with_order.users, with_order.items),
        with_order.reindex(torch.arange(graph.num_users), kept),
    ):
        challenge = make_challenge(dataset, 10)
        assert sorted(playlist.task for playlist in challenge.playlists) == sorted(
            task.name for task in TASKS
        )


def test_places_are_those_of_an_official_set_with_repeats():
    def task_of(*places):
        return ChallengePlaylist(1, None, ("a",) * len(places), places, 5).task

    assert task_of(0, 1, 2) == "first 3"
    assert task_of(0, 2) == "random 2" and task_of(1) == "random 1"
    with pytest.raises(ValueError, match="1 seeds at 2 places"):
        ChallengePlaylist(1, None, ("a",), (0, 1), 5)


def test_a_seed_decides(with_order, challenge):
    again, other = make_challenge(with_order, 50, seed=3), make_challenge(with_order, 50, seed=4)
    assert (
        list(again.playlists) == list(challenge.playlists) and again.holdouts == challenge.holdouts
    )
    assert {playlist.pid for playlist in other.playlists} != {
        playlist.pid for playlist in again.playlists
    }


def test_a_playlist_without_a_title_is_in_no_task_that_shows_one(with_order):
    titles = ["!?" if place % 2 else title for place, title in enumerate(with_order.users["name"])]
    challenge = make_challenge(
        Dataset(with_order.interactions, {"name": titles}, with_order.items), 20
    )
    by_pid = dict(zip(with_order.interactions.user_ids.tolist(), titles, strict=True))
    assert all(
        by_pid[playlist.pid] != "!?"
        for playlist in challenge.playlists
        if playlist.title is not None
    )


def without(dataset, **change):
    return Dataset(replace(dataset.interactions, **change), dataset.users, dataset.items)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda dataset: without(dataset, order=None), "--order"),
        (lambda dataset: without(dataset, user_ids=None), "no integer ids"),
        (
            lambda dataset: without(dataset, user_ids=-dataset.interactions.user_ids),
            "no integer ids of at least 0",
        ),
        (
            lambda dataset: Dataset(
                dataset.interactions, dataset.users, dataset.items, dataset.interactions
            ),
            "test split",
        ),
        (lambda dataset: without(dataset, item_ids=None), "no URIs"),
        (lambda dataset: Dataset(dataset.interactions, {}, dataset.items), '"name"'),
        (
            lambda dataset: dataset.reindex(torch.arange(30), torch.arange(200)),
            "needs 5 playlists of at least 105 tracks",
        ),
    ],
)
def test_data_that_will_not_do_is_refused(with_order, spoil, says):
    with pytest.raises(ValueError, match=says):
        make_challenge(spoil(with_order), 50)


@pytest.mark.parametrize("count", [0, 15, True, 2.5])
def test_a_count_of_playlists_is_a_multiple_of_ten(with_order, count):
    with pytest.raises(ValueError, match="num_playlists must be"):
        make_challenge(with_order, count)
