from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lightgcn import Interactions, LightGCN, Recommender
from lightgcn.challenge import (
    ChallengePlaylist,
    TitleIndex,
    answer_playlists,
    neighbouring_tracks,
    popular_tracks,
    score_lists,
)
from lightgcn.challenge.answers import seed_tracks
from lightgcn.ranking.time_decay import decayed


def dense_scores(recommender, playlists, titles, title_weight, share_weight):
    """All scores of all playlists in float64, one playlist at a time."""
    items = recommender.ranker.items.double()
    index = {uri: place for place, uri in enumerate(recommender.seen.item_ids.tolist())}
    width, cosine = recommender.ranker.num_columns, recommender.ranker.config.popularity_prior
    scores, told = [], []
    for playlist in playlists:
        seeds = [index[uri] for uri in playlist.seeds if uri in index]
        told.append(seeds)
        user = torch.zeros(items.shape[1], dtype=torch.float64)
        user[width:] = 0 if cosine is None else 1
        if seeds:
            user = recommender.fold_in_user(seeds).double()
        worth, title = 0.0, playlist.title or ""
        if titles is not None:
            direction = titles.directions([title], recommender.ranker.users[:, :width])[0].double()
            if direction.any():
                tracks = user[:width]
                worth = title_weight / len(seeds) if seeds else 1.0
                mixed = (
                    tracks + worth * tracks.norm() * F.normalize(direction, dim=0)
                    if seeds
                    else direction
                )
                mixed = mixed if cosine is None else F.normalize(mixed, dim=0)
                user = torch.cat([mixed, user[width:]])
        row = items @ user
        if not user[:width].any() and cosine is None:
            row = recommender.seen.item_degrees.double().log1p() / 1024
        deviation = row.std(correction=0)
        if recommender.ranker.item_knn is not None and seeds:
            new = Interactions(torch.zeros(len(seeds)).long(), seeds, 1, len(items))
            knn = replace(recommender.ranker.item_knn, history=new)
            _, near, gains = knn.of_users(torch.tensor([0]))
            row[near] += gains.double()
        if worth:
            shares = torch.from_numpy(titles.shares([title]).toarray()[0]).double()
            if shares.any():
                row += share_weight * deviation * min(worth, 1) * shares / shares.max()
        row[seeds] = -torch.inf
        scores.append(row)
    return torch.stack(scores), told


def assert_lists_follow(lists, playlists, recommender, scores, told, k):
    uris = recommender.seen.item_ids.tolist()
    index = {uri: place for place, uri in enumerate(uris)}
    assert list(lists) == [playlist.pid for playlist in playlists]
    for playlist, row, seeds in zip(playlists, scores, told, strict=True):
        answer = [index[uri] for uri in lists[playlist.pid]]
        assert len(set(answer)) == len(answer) == min(k, len(uris) - len(seeds))
        assert not set(answer) & set(seeds)
        # Float32 may exchange what is nearly equal.
        torch.testing.assert_close(
            row[answer], row.sort(descending=True).values[: len(answer)], atol=1e-5, rtol=1e-5
        )


@pytest.fixture
def titles(recommender):
    return TitleIndex(recommender.user_columns["name"], recommender.seen)


@pytest.mark.parametrize("with_titles", [False, True])
@pytest.mark.parametrize("neighbours", [False, True])
def test_answers_are_the_best_by_the_formula(
    challenge, recommender, titles, with_titles, neighbours
):
    index = titles if with_titles else None
    if not neighbours:
        recommender = without_knn(recommender)
    lists = answer_playlists(
        recommender, challenge.playlists, index, title_weight=1.5, share_weight=3.0
    )
    scores, told = dense_scores(recommender, challenge.playlists, index, 1.5, 3.0)
    assert_lists_follow(lists, challenge.playlists, recommender, scores, told, 500)


def without_knn(recommender):
    """The same recommender without item kNN."""
    config = replace(recommender.ranker.config, item_knn=0)
    ranker = replace(recommender.ranker, item_knn=None, config=config)
    return Recommender(ranker, user_columns=recommender.user_columns)


@pytest.mark.parametrize("with_titles", [False, True])
def test_answers_of_a_model_scored_by_dot_products(challenge, titles, with_titles):
    graph = challenge.train.interactions
    model = LightGCN(graph.num_users, graph.num_items, 16, 2)
    recommender = Recommender.from_model(model, graph, user_columns=challenge.train.users)
    index = titles if with_titles else None
    lists = answer_playlists(recommender, challenge.playlists, index)
    scores, told = dense_scores(recommender, challenge.playlists, index, 1.0, 4.0)
    assert_lists_follow(lists, challenge.playlists, recommender, scores, told, 500)


def test_nothing_known_is_answered_by_what_is_popular(challenge, recommender, titles):
    nothing = ChallengePlaylist(1, None, (), (), 5)
    strange = ChallengePlaylist(2, "zzzzqqqq", ("spotify:track:unknown",), (0,), 5)
    order = recommender.seen.item_degrees.argsort(descending=True, stable=True)[:500]
    popular = recommender.seen.item_ids[order.numpy()].tolist()
    graph = challenge.train.interactions
    dots = Recommender.from_model(LightGCN(graph.num_users, graph.num_items, 8, 1), graph)
    for model in (recommender, without_knn(recommender), dots):
        for index in (None, titles):
            lists = answer_playlists(model, [nothing, strange], index)
            assert lists == {1: popular, 2: popular}
    assert (
        popular_tracks(recommender, [nothing])
        == neighbouring_tracks(recommender, [nothing])
        == {1: popular}
    )


def test_baselines_do_not_repeat_what_was_told(challenge, recommender):
    degrees = recommender.seen.item_degrees
    index = {uri: place for place, uri in enumerate(recommender.seen.item_ids.tolist())}
    for baseline in (popular_tracks, neighbouring_tracks):
        lists = baseline(recommender, challenge.playlists)
        for playlist in challenge.playlists:
            answer = lists[playlist.pid]
            assert len(set(answer)) == 500 and not set(answer) & set(playlist.seeds)
            if baseline is popular_tracks:
                counts = degrees[[index[uri] for uri in answer]]
                assert bool((counts.diff() <= 0).all())


def test_answers_beat_the_baselines_and_titles_help(challenge, recommender, titles):
    def r_precision(lists):
        return score_lists(challenge.playlists, lists, challenge.holdouts, challenge.artists)[
            "all"
        ].r_precision

    alone, best = (
        r_precision(answer_playlists(recommender, challenge.playlists, index))
        for index in (None, titles)
    )
    assert best > alone > 1.5 * r_precision(popular_tracks(recommender, challenge.playlists))


def test_recency_counts_the_last_of_the_seeds(challenge, recommender):
    ranker = recommender.ranker
    knn = replace(ranker.item_knn, history=decayed(recommender.seen, 2.0))
    config = replace(ranker.config, time_decay=2.0, time_decay_weight=1.0)
    model = Recommender(
        replace(ranker, item_knn=knn, config=config), item_columns=recommender.item_columns
    )
    uris = recommender.seen.item_ids.tolist()
    seeds = tuple(uris[:6])
    there = ChallengePlaylist(1, None, seeds, tuple(range(6)), 5)
    back = ChallengePlaylist(2, None, seeds[::-1], tuple(range(6)), 5)
    lists = answer_playlists(model, [there, back], k=20)
    for playlist in (there, back):
        wanted = [one.id for one in model.recommend_new(list(playlist.seeds), 20)]
        assert lists[playlist.pid] == wanted
    assert lists[1] != lists[2]


def test_answers_do_not_depend_on_who_is_asked_with_whom(challenge, recommender, titles):
    together = answer_playlists(recommender, challenge.playlists, titles)
    for playlist in challenge.playlists[::7]:
        assert (
            answer_playlists(recommender, [playlist], titles)[playlist.pid]
            == together[playlist.pid]
        )
    assert answer_playlists(recommender, [], titles) == {}


def test_seeds_that_are_not_known_say_nothing(recommender):
    uris = recommender.seen.item_ids.tolist()
    playlist = ChallengePlaylist(1, None, (uris[3], "spotify:track:unknown", uris[1]), (0, 4, 7), 5)
    graph = seed_tracks(recommender, [playlist])
    assert graph.items.tolist() == [1, 3] and graph.order.tolist() == [7, 0]


@pytest.mark.parametrize("name", ["title_weight", "share_weight"])
@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "x", True])
def test_weights_that_are_none_are_refused(recommender, titles, name, weight):
    with pytest.raises(ValueError, match=f"{name} must be a number of at least 0"):
        answer_playlists(recommender, [], titles, **{name: weight})


def test_titles_of_other_playlists_and_a_pid_twice_are_refused(recommender):
    other = TitleIndex(["a"], Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1))
    with pytest.raises(ValueError, match="titles are of Interactions"):
        answer_playlists(recommender, [], other)
    playlist = ChallengePlaylist(7, None, (), (), 5)
    with pytest.raises(ValueError, match="playlist 7 occurs twice"):
        answer_playlists(recommender, [playlist, playlist])


def test_items_without_uris_are_refused(recommender):
    graph = Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1)
    model = Recommender.from_model(LightGCN(1, 1, 4, 1), graph)
    with pytest.raises(ValueError, match="no URIs"):
        answer_playlists(model, [])
