import numpy as np
import pytest
import torch

import lightgcn.challenge.title_index as titles_module
from lightgcn import Interactions
from lightgcn.challenge.title_index import TitleIndex, plain_title
from lightgcn.core.sorting import largest_of_rows

TITLES = ["Rainy Day Jazz", "rainy day jazz!!", "gym rock", "Gym: Metal", "", "summer 2017 ☀"]


@pytest.fixture
def graph():
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(len(TITLES), 12, generator=generator) < 0.4
    users, items = dense.nonzero(as_tuple=True)
    return Interactions(users, items, len(TITLES), 12)


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("Rainy  DAY, Jazz!!", "rainy day jazz"),
        ("ＧＹＭ—mix", "gym mix"),
        ("☀ ☀", "☀ ☀"),
        ("...", ""),
        ("", ""),
        ("a\0b\nc", "a b c"),
        ("ẞ", "ss"),
        ("❤️", "❤"),
        ("👩‍🚀", "👩🚀"),
    ],
)
def test_plain_title_drops_case_width_and_punctuation(title, plain):
    assert plain_title(title) == plain


def weights_by_hand(index, titles):
    """The cubes of the cosines with the most similar known titles, by loops."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    known = vectorizer.fit_transform(index.distinct).toarray()
    new = vectorizer.transform([plain_title(title) for title in titles]).toarray()
    weights = np.zeros((len(titles), len(index.distinct)))
    for row, vector in enumerate(new):
        cosines = known @ vector
        for place in np.argsort(-cosines, kind="stable")[: index.similar]:
            if cosines[place] >= index.least and titles[row]:
                weights[row, place] = cosines[place] ** 3
    return weights


@pytest.mark.parametrize("similar", [1, 2, 20])
def test_directions_and_shares_are_weighted_means_over_playlists(graph, similar):
    index = TitleIndex(TITLES, graph, similar=similar)
    asked = ["rainy jazz", "GYM", "", "RAINY DAY JAZZ", "gym", "zzzqqq"]
    by_title = weights_by_hand(index, asked)
    by_playlist = np.zeros((len(asked), len(TITLES)))
    for user, title in enumerate(TITLES):
        if title:
            by_playlist[:, user] = by_title[:, index.distinct.index(plain_title(title))]
    totals = by_playlist.sum(1, keepdims=True)
    by_playlist = np.divide(by_playlist, totals, out=np.zeros_like(by_playlist), where=totals > 0)
    users = torch.randn(len(TITLES), 5)
    np.testing.assert_allclose(
        index.directions(asked, users), by_playlist @ users.numpy(), atol=1e-5
    )
    shares = index.shares(asked)
    np.testing.assert_allclose(
        shares.toarray(), by_playlist @ graph.to_scipy().toarray(), atol=1e-5
    )
    assert totals[0] > 0 and totals[2] == 0 and totals[5] == 0


def test_a_known_title_finds_those_who_bear_it_first(graph):
    index = TitleIndex(TITLES, graph, similar=1)
    both = (graph.to_scipy().toarray()[:2]).mean(0)
    np.testing.assert_allclose(index.shares(["Rainy-day JAZZ"]).toarray()[0], both, atol=1e-6)


def test_shares_keep_the_largest_and_do_not_depend_on_blocks(graph, monkeypatch):
    index = TitleIndex(TITLES, graph)
    asked = ["rainy", "gym", "rainy", "summer", "jazz rock"]
    whole = index.shares(asked)
    monkeypatch.setattr(titles_module, "_ENTRIES", 1)
    monkeypatch.setattr(titles_module, "_TITLES_AT_A_TIME", 2)
    np.testing.assert_array_equal(index.shares(asked).toarray(), whole.toarray())
    few = index.shares(asked, most=2)
    assert (np.diff(few.indptr) <= 2).all()
    for row in range(len(asked)):
        dense = whole[[row]].toarray()[0]
        np.testing.assert_allclose(np.sort(few[[row]].data), np.sort(dense)[-2:])


def test_weights_of_edges_do_not_count(graph):
    weighted = Interactions(
        graph.users,
        graph.items,
        graph.num_users,
        graph.num_items,
        torch.rand(graph.num_edges) + 0.5,
    )
    np.testing.assert_array_equal(
        TitleIndex(TITLES, weighted).shares(["gym"]).toarray(),
        TitleIndex(TITLES, graph).shares(["gym"]).toarray(),
    )


def test_titles_by_a_model_are_compared_without_what_all_have_in_common(graph):
    def encode(texts):
        vectors = torch.tensor(
            [
                [float("jazz" in text), float("gym" in text), float("summer" in text)]
                for text in texts
            ]
        )
        return vectors + 100  # without centring all cosines are 1

    index = TitleIndex(TITLES, graph, encode=encode)
    held = graph.to_scipy().toarray()
    np.testing.assert_allclose(
        index.shares(["anything jazz"]).toarray()[0], held[:2].mean(0), atol=1e-5
    )
    np.testing.assert_allclose(
        index.shares(["to the gym"]).toarray()[0], held[2:4].mean(0), atol=1e-5
    )
    assert index.shares([""]).nnz == 0


def test_a_title_is_like_itself_whatever_a_model_says(graph):
    index = TitleIndex(["one"] * len(TITLES), graph, encode=lambda texts: torch.ones(len(texts), 3))
    np.testing.assert_allclose(
        index.shares(["One!"]).toarray()[0], graph.to_scipy().toarray().mean(0), atol=1e-6
    )


def test_no_titles_and_no_questions(graph):
    empty = TitleIndex([""] * len(TITLES), graph)
    assert empty.shares(["gym", ""]).shape == (2, 12) and empty.shares(["gym"]).nnz == 0
    assert not empty.directions(["gym"], torch.ones(len(TITLES), 3)).any()
    index = TitleIndex(TITLES, graph)
    assert index.shares([]).shape == (0, 12)
    assert index.directions([], torch.ones(len(TITLES), 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"titles": ["one"]}, "a title for each of 6 users, got 1"),
        ({"titles": "abcdef"}, "a title for each of 6 users"),
        ({"titles": [*"abcde", None]}, "a title must be a string"),
        ({"least": "x"}, "least must be a cosine"),
        ({"similar": 0}, "similar must be an integer of at least 1, got 0"),
        ({"least": 1.5}, r"least must be a cosine in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(graph, change, says):
    arguments = {"titles": TITLES} | change
    with pytest.raises(ValueError, match=says):
        TitleIndex(arguments.pop("titles"), graph, **arguments)


def test_largest_of_rows_takes_the_first_of_equal_ones():
    from scipy.sparse import csr_array

    dense = np.array([[1, 2, 2, 2], [0, 0, 0, 0], [3, 0, 1, 2]], np.float32)
    kept = largest_of_rows(csr_array(dense), 2)
    np.testing.assert_array_equal(kept.toarray(), [[0, 2, 2, 0], [0, 0, 0, 0], [3, 0, 0, 2]])
