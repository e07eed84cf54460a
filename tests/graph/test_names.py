"""Nodes found by what people call them, and what is offered for what there is not."""

from __future__ import annotations

import random
import time

import pytest
import torch

from lightgcn import Interactions
from lightgcn.graph.names import NodeNames, close_texts, label


def items(
    ids: list[str] | list[int] | None, columns: dict[str, list[str]], users: list[int]
) -> NodeNames:
    """Items with so many users each."""
    places = torch.arange(len(users)).repeat_interleave(torch.tensor(users))
    people = torch.cat([torch.arange(count) for count in users])
    graph = Interactions(people, places, max(users), len(users), item_ids=ids)
    return NodeNames("item", graph, columns)


def message(names: NodeNames, wanted: str) -> str:
    with pytest.raises(ValueError) as caught:
        names.find(wanted)
    return str(caught.value)


def test_candidates_of_a_name_are_told_apart_and_come_by_popularity() -> None:
    count = 14
    users = [(7 * n) % 14 + 1 for n in range(count)]
    columns = {
        "name": ["Intro"] * count,
        "artist": [f"Artist {n}" for n in range(count)],
        "album": [f"Album {n}" for n in range(count)],
    }
    names = items([f"t{n}" for n in range(count)], columns, users)
    said = message(names, "intro")
    best = sorted(range(count), key=lambda n: (-users[n], n))
    assert said.startswith("14 items are called 'intro'") and said.endswith("and 9 more")
    listed = [f"t{n} (Intro by Artist {n}, Album {n}, {users[n]} user" for n in best[:5]]
    places = [said.index(text) for text in listed]
    assert places == sorted(places)
    assert names.lookup("intro") == best and names.lookup("Intro by artist 3") == [3]
    assert NodeNames("item", names.graph, columns, "popular").find("INTRO") == best[0]
    assert "1 user)" in message(items([1, 2], {"name": ["a", "a"]}, [1, 2]), "a")


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("Bjork, live №165", "Björk, live №165"),
        ("frozen leter", "Frozen Letter"),
        ("FROZEN", "Frozen Letter"),
        ("caffè", "Caffe"),
        ("Σισυφοσ", "Σίσυφος"),
    ],
)
def test_close_names_are_offered_whatever_their_case_and_accents(
    wanted: str, offered: str, as_ids: bool
) -> None:
    texts = ["Björk, live №165", "Frozen Letter", "Caffe", "Σίσυφος", "Zzz", "Something else"]
    if as_ids:
        names = items(texts, {}, [1] * 6)
    else:
        names = items([f"id{n}" for n in range(6)], {"name": texts}, [1] * 6)
    said = message(names, wanted)
    assert repr(wanted) in said and offered in said.partition("close to it: ")[2]
    assert "Zzz" not in said and "close" not in message(names, "qqqqqqqq")


def test_close_to_a_name_with_its_artist_and_to_ids_beside_names() -> None:
    columns = {"name": ["Frozen Letter", "Rain"], "artist": ["Ann", "Bob"]}
    names = items(["spotify:0aB1cD2e", "spotify:9zY8xW7v"], columns, [1, 1])
    assert "Frozen Letter by Ann" in message(names, "Frozen Leter by a very long artist's name")
    assert "spotify:9zY8xW7v (Rain by Bob" in message(names, "spotify:9zY8xW7w")
    assert "close" not in message(items([10, 11], {}, [1, 1]), "12")


def test_names_with_line_breaks_blanks_and_lone_surrogates() -> None:
    texts = ["one\ntwo", "  three   four ", "", "\ud800 five six", "x" * 5000]
    assert close_texts("one two", texts)[0] == 0
    assert close_texts("three  four", texts)[0] == 1
    assert close_texts("five sixx", texts)[0] == 3
    assert close_texts("x" * 4000, texts) == [4]
    assert close_texts(" ", texts) == close_texts("", texts) == close_texts("abc", []) == []


def test_close_names_equal_a_comparison_with_all_of_them() -> None:
    from difflib import SequenceMatcher

    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef ", k=rng.randint(3, 12))).strip() for _ in range(3000)]
    for wanted in rng.sample([text for text in texts if len(text) > 8], 10):
        found = close_texts(wanted[:4] + "f" + wanted[5:], texts)
        ratios = [
            SequenceMatcher(None, text, wanted[:4] + "f" + wanted[5:]).ratio() for text in texts
        ]
        assert ratios[found[0]] == max(ratios)


def test_a_label_is_one_line() -> None:
    assert label("a\n b", " c ") == "a b by c" and label("a") == "a" and label("", "c") == ""


@pytest.mark.slow
def test_two_million_names_take_seconds() -> None:
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.randint(3, 9)))
        for _ in range(9999)
    ]
    texts = [" ".join(rng.choices(words, k=3)) for _ in range(2_000_000)]
    began = time.perf_counter()
    assert close_texts(texts[1_234_567][:-1] + "x", texts)[0] == 1_234_567
    assert time.perf_counter() - began < 30
