import gzip
import lzma
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn.datasets import read_text
from lightgcn.datasets.lightgcn_format import _parse


def naive(text):
    """Return the sorted distinct pairs of a file and every user in it, with one Python loop."""
    pairs, users, entries = set(), set(), 0
    for line in text.splitlines():
        numbers = [int(token) for token in line.split()]
        users.update(numbers[:1])
        pairs.update((numbers[0], item) for item in numbers[1:])
        entries += max(0, len(numbers) - 1)
    return [list(pair) for pair in sorted(pairs)], users, entries


TRAIN = "0 3 1 2\n2 5\t3 \r\n\n1\n  4 0 0 3\n0 9 1\n"
TEST = "1 3 11\n3 5\n2 5 5\n6 \n"


def put(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def test_reads_what_a_plain_loop_reads(tmp_path):
    dataset = read_text(put(tmp_path, train=TRAIN, test=TEST))
    train_pairs, _, train_entries = naive(TRAIN)
    test_pairs, test_users, _ = naive(TEST)
    assert dataset.interactions.edge_index.T.tolist() == train_pairs
    assert dataset.test.edge_index.T.tolist() == test_pairs
    assert dataset.interactions.num_users == dataset.test.num_users == max(test_users) + 1 == 7
    assert dataset.interactions.num_items == dataset.test.num_items == 12
    assert dataset.interactions.user_ids is None
    assert dataset.interactions.item_ids is None
    info = dataset.info
    assert (info["entries"], info["edges"], info["duplicate_entries"]) == (
        train_entries,
        len(train_pairs),
        2,
    )
    assert (info["test_entries"], info["test_edges"], info["test_duplicate_entries"]) == (5, 4, 1)
    assert info["test_edges_also_in_train"] == 1


def test_a_folder_without_test_file(tmp_path):
    dataset = read_text(str(put(tmp_path, train="0 0\n1 1")))
    assert dataset.test is None
    assert "test_edges" not in dataset.info


def test_a_train_file_itself_with_and_without_a_test_file(tmp_path):
    put(tmp_path, train=TRAIN, test=TEST)
    assert read_text(tmp_path / "train.txt").test is None
    other = tmp_path / "held-out.dat"
    other.write_text("0 4")
    assert read_text(tmp_path / "train.txt", test=other).test.edge_index.tolist() == [[0], [4]]
    assert read_text(tmp_path, test=str(other)).test.edge_index.tolist() == [[0], [4]]


@pytest.mark.parametrize(("suffix", "compress"), [("xz", lzma.compress), ("gz", gzip.compress)])
def test_compressed_files_are_read_as_they_are(tmp_path, suffix, compress):
    (tmp_path / f"train.txt.{suffix}").write_bytes(compress(TRAIN.encode()))
    (tmp_path / f"test.txt.{suffix}").write_bytes(compress(TEST.encode()))
    plain = tmp_path / "plain"
    plain.mkdir()
    wanted = read_text(put(plain, train=TRAIN, test=TEST))
    for source in (tmp_path, tmp_path / f"train.txt.{suffix}"):
        assert (
            read_text(source, test=tmp_path / f"test.txt.{suffix}").test.fingerprint()
            == wanted.test.fingerprint()
        )
        found = read_text(tmp_path)
        assert found.interactions.fingerprint() == wanted.interactions.fingerprint()


@pytest.mark.parametrize("suffix", ["xz", "gz"])
def test_a_compressed_file_cut_short_or_not_compressed_is_named(tmp_path, suffix):
    path = tmp_path / f"train.txt.{suffix}"
    whole = (lzma.compress if suffix == "xz" else gzip.compress)(TRAIN.encode() * 50)
    for data in (whole[:-9], whole[:20], TRAIN.encode()):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=f"{re.escape(str(path))}: not a readable .{suffix} file"
        ):
            read_text(tmp_path)


BAD_VALUES = {
    "negative": (b"-7", "'-7' is negative"),
    "float": (b"1.5", "'1.5' is not an integer"),
    "exponent": (b"1.e3", "'1.e3' is not an integer"),
    "word": (b"user", "'user' is not a number"),
    "plus": (b"+5", "'+5' is not a number"),
    "comma": (b"1,2", "'1,2' is not a number"),
    "one too large": (b"2147483647", "'2147483647' is too large"),
    "beyond 64 bits": (b"99999999999999999999", "'99999999999999999999' is too large"),
    "5 modulo 2**64": (b"18446744073709551621", "'18446744073709551621' is too large"),
    "invalid UTF-8": (b"\xff\xfe", r"b'\xff\xfe' is not text"),
    "NUL": (b"\x00", r"'\x00' is not a number"),
    "other digits": ("٣".encode(), "'٣' is not a number"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("value", "says"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_bad_value_is_refused_by_file_line_and_value(tmp_path, part, value, says):
    put(tmp_path, train="0 1\n1 2\n", test="0 2\n")
    path = tmp_path / f"{part}.txt"
    path.write_bytes(b"0 3\n\r\n1 4 " + value + b" 5\n2 1\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: {says}")) as caught:
        read_text(tmp_path)
    assert "0 to 2147483646" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_value_and_a_byte_order_mark_are_accepted(tmp_path):
    data = b"\xef\xbb\xbf2 2147483646 0000000007"
    found = _parse(tmp_path / "train.txt", data)
    assert (found.users.tolist(), found.items.tolist(), found.most) == ([2, 2], [2147483646, 7], 2)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("line", ["1500000000 1 0\n", "1 1500000000\n", "0 1000001\n"])
def test_raw_ids_are_refused_before_they_take_memory(tmp_path, part, line):
    put(tmp_path, **({"train": "0 1\n", "test": "1 0\n"} | {part: line}))
    highest = max(map(int, line.split()))
    with pytest.raises(
        ValueError, match=rf"{part}\.txt: the highest index is {highest}, .*raw ids\? .*table"
    ):
        read_text(tmp_path)


def test_a_million_nodes_and_a_thousand_for_each_number_are_accepted(tmp_path):
    assert read_text(put(tmp_path, train="0 1000000\n")).interactions.num_items == 1_000_001
    lines = "".join(f"{user} {user}\n" for user in range(1000))
    assert read_text(put(tmp_path, train=lines + "0 1999000\n")).interactions.num_items == 1_999_001


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "is empty"), (" \n\n", "is empty"), ("0\n3 \n", "no line holds an item")],
)
def test_a_file_without_values_or_items_is_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'train.txt'))}: .*{says}"):
        read_text(put(tmp_path, train=text))


def test_a_missing_train_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape("looked for train.txt, train.txt.gz, train.txt.xz")
    ) as caught:
        read_text(tmp_path)
    assert str(tmp_path) in str(caught.value)
    for source, test in (
        (tmp_path / "none.txt", None),
        (put(tmp_path, train="0 1"), tmp_path / "none.txt"),
    ):
        with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
            read_text(source, test=test)


def written(lists):
    return "".join(f"{user} {' '.join(map(str, items))}\n" for user, items in lists)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 12_000), max_size=6)),
        min_size=1,
        max_size=15,
    ).filter(lambda lists: any(items for _, items in lists))
)
def test_reading_what_was_written_gives_it_back(tmp_path_factory, lists):
    folder = tmp_path_factory.mktemp("text")
    graph = read_text(put(folder, train=written(lists))).interactions
    assert set(zip(*graph.edge_index.tolist(), strict=True)) == {
        (u, i) for u, items in lists for i in items
    }
    assert graph.num_users == max(user for user, _ in lists) + 1
    assert graph.num_items == max(max(items) for _, items in lists if items) + 1
    again = written((user, graph.items_of(user).tolist()) for user in range(graph.num_users))
    reread = read_text(put(folder, train=again)).interactions
    # Lists are written sorted here, so that the graph is the same and the order of the items is
    # not.
    assert replace(reread, order=None).fingerprint() == replace(graph, order=None).fingerprint()
    for user in {user for user, _ in lists}:
        items = list(dict.fromkeys(item for other, some in lists if other == user for item in some))
        edges = graph.users == user
        assert graph.items[edges][graph.order[edges].argsort()].tolist() == items


def test_gowalla_has_its_published_counts(gowalla):
    dataset = read_text(gowalla)
    graph, test = dataset.interactions, dataset.test
    assert (graph.num_users, graph.num_items, graph.num_edges, test.num_edges) == (
        29_858,
        40_981,
        810_128,
        217_242,
    )
    assert dataset.info["duplicate_entries"] == dataset.info["test_edges_also_in_train"] == 0
    assert int(graph.user_degrees.min()) > 0
    with lzma.open(gowalla / "train.txt.xz", "rt") as file:
        for _, line in zip(range(50), file, strict=False):
            user, *items = map(int, line.split())
            assert torch.equal(graph.items_of(user), torch.tensor(sorted(items)))


def test_lines_may_end_in_carriage_returns(tmp_path):
    dataset = read_text(put(tmp_path, train="0 1 2\r1 3\r\n\r2 0\n"))
    assert dataset.interactions.edge_index.T.tolist() == [[0, 1], [0, 2], [1, 3], [2, 0]]
    with pytest.raises(ValueError, match=r"train.txt, line 2: 'x'"):
        read_text(put(tmp_path, train="0 1 2\r1 x\r"))
