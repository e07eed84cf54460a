import math
import random

import pytest

from lightgcn.challenge import ChallengePlaylist, score_lists


def by_the_rules(ranked, wanted, artists):
    """The challenge's metrics, one term at a time."""
    ranked = [track for place, track in enumerate(ranked) if track not in ranked[:place]][:500]
    size = len(wanted)
    top = ranked[:size]
    tracks = len(set(top) & wanted)
    common = {artists[track] for track in top} & {artists[track] for track in wanted}
    dcg, hits, first = 0.0, 0, None
    for rank, track in enumerate(ranked, 1):
        if track in wanted:
            dcg += 1.0 if rank == 1 else 1 / math.log2(rank)
            hits += 1
            first = rank if first is None else first
    ideal = sum(1.0 if rank == 1 else 1 / math.log2(rank) for rank in range(1, hits + 1))
    usual = sum(1 / math.log2(rank + 1) for rank, track in enumerate(ranked, 1) if track in wanted)
    return {
        "r_precision": tracks / size,
        "r_precision_artists": (tracks + 0.25 * len(common)) / size,
        "ndcg": dcg / ideal if hits else 0.0,
        "clicks": 51 if first is None else (first - 1) // 10,
        "ndcg_log2_rank_plus_1": usual
        / sum(1 / math.log2(rank + 1) for rank in range(1, min(size, 500) + 1)),
        "recall": hits / size,
    }


def playlist(pid, seeds=()):
    return ChallengePlaylist(pid, "a title", tuple(seeds), tuple(range(len(seeds))), 1)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_the_rules(seed):
    draw = random.Random(seed)
    tracks = [f"t{number}" for number in range(900)]
    artists = {track: f"a{draw.randrange(60)}" for track in tracks}
    asked, lists, holdouts = [], {}, {}
    for pid in range(6):
        asked.append(playlist(pid, ["s"] * draw.choice([0, 1])))
        holdouts[pid] = draw.sample(tracks, draw.choice([1, 5, 40, 600]))
        lists[pid] = draw.sample(tracks, draw.choice([500, 500, 700, 3, 0]))
        if draw.random() < 0.3:  # of tracks that are there again only the first counts
            lists[pid] = draw.choices(tracks, k=300)
    scores = score_lists(asked, lists, holdouts, artists)
    for name, values in scores.items():
        members = [one for one in asked if name in ("all", one.task)]
        rules = [by_the_rules(lists[one.pid], set(holdouts[one.pid]), artists) for one in members]
        assert values.playlists == len(members)
        for metric in rules[0]:
            expected = sum(rule[metric] for rule in rules) / len(rules)
            assert getattr(values, metric) == pytest.approx(expected, abs=1e-12)


def test_known_answers():
    asked = [playlist(1)]
    artists = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "x"}
    # Of two tracks sought, one is second, the artist of the other is first.
    scores = score_lists(asked, {1: ["c", "b", "d"]}, {1: ["a", "b"]}, artists)["all"]
    assert scores.r_precision == 0.5
    assert scores.r_precision_artists == (1 + 0.25 * 2) / 2
    assert scores.ndcg == 1.0  # 1 / log2(2), as good as the first place by these rules
    assert scores.clicks == 0
    late = score_lists(
        asked, {1: [f"n{place}" for place in range(10)] + ["a"]}, {1: ["a", "b"]}, artists
    )["all"]
    assert (late.clicks, late.r_precision) == (1, 0)
    assert score_lists(asked, {}, {1: ["a"]}, artists)["all"].clicks == 51


def test_what_a_playlist_told_is_not_to_be_found():
    asked = [playlist(1, ["a", "b"])]
    whole = score_lists(asked, {1: ["c", "x"]}, {1: ["a", "b", "c"]})["all"]
    assert (whole.r_precision, whole.recall) == (1, 1)
    with pytest.raises(ValueError, match="playlist 1: holdouts"):
        score_lists(asked, {1: ["c"]}, {1: ["a", "b"]})


def test_no_playlist_is_no_score():
    with pytest.raises(ValueError, match="no playlist to score"):
        score_lists([], {}, {})


def test_artists_that_are_not_known_give_no_figure():
    scores = score_lists([playlist(1)], {1: ["a"]}, {1: ["a"]})["all"]
    assert scores.r_precision_artists is None and scores.r_precision == 1


def test_a_playlist_of_which_nothing_is_known_to_be_held_out_is_named():
    with pytest.raises(ValueError, match="playlist 7: holdouts"):
        score_lists([playlist(7)], {}, {})
