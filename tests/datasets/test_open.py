import json
import subprocess
import sys

import pytest
import torch

from lightgcn.datasets import Dataset, open_dataset
from lightgcn.graph.interactions import Interactions

SLICE = json.dumps({"playlists": [{"pid": 9, "name": "x", "tracks": [{"track_uri": "a"}]}]})


@pytest.fixture
def sources(tmp_path):
    """One source of each kind; each gives one edge."""
    graph = Interactions.from_edge_index(torch.tensor([[0], [0]]))
    Dataset(graph, {}, {}, None, {"format": "prepared"}).save(tmp_path / "prepared")
    for folder in ("mpd", "json", "text"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mpd" / "mpd.slice.0-999.json").write_text(SLICE)
    (tmp_path / "json" / "part.json").write_text(SLICE)
    (tmp_path / "text" / "train.txt").write_text("0 0\n")
    (tmp_path / "table.csv").write_text("user,item,w\na,b,2\n")
    (tmp_path / "table.tsv").write_text("user\titem\na\tb\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("prepared", "prepared"),
        ("prepared/dataset.safetensors", "prepared"),
        ("mpd", "mpd"),
        ("mpd/mpd.slice.0-999.json", "mpd"),
        ("json", "mpd"),
        ("text", "text"),
        ("text/train.txt", "text"),
        ("table.csv", "table"),
        ("table.tsv", "table"),
    ],
)
def test_the_format_is_told_from_the_names(sources, name, format):
    for given in ("auto", format):
        for source in (sources / name, str(sources / name)):
            dataset = open_dataset(source, format=given)
            assert dataset.info["format"] == format
            assert dataset.interactions.num_edges == 1


@pytest.mark.parametrize("suffix", ["xz", "gz"])
def test_compressed_text_is_recognised(tmp_path, suffix):
    import gzip
    import lzma

    path = tmp_path / f"train.txt.{suffix}"
    path.write_bytes((lzma.compress if suffix == "xz" else gzip.compress)(b"1 2\n"))
    for source in (tmp_path, path):
        assert open_dataset(source).interactions.edge_index.tolist() == [[1], [2]]


def test_a_parquet_file_is_recognised(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"user": [1], "item": [2]}), tmp_path / "a.parquet")
    assert open_dataset(tmp_path / "a.parquet").info["format"] == "table"


def test_several_files_are_slices(sources):
    assert open_dataset([sources / "mpd" / "mpd.slice.0-999.json"]).info["format"] == "mpd"
    with pytest.raises(ValueError, match="not format 'text'"):
        open_dataset([sources / "text" / "train.txt"], format="text")


def test_several_files_that_are_no_slices_are_named(sources):
    tables = [sources / "table.csv", sources / "table.tsv"]
    with pytest.raises(ValueError, match=r"table\.tsv: its columns are user, item, and those"):
        open_dataset(tables)
    mixed = [sources / "json" / "part.json", sources / "text" / "train.txt"]
    with pytest.raises(ValueError, match=r"MPD slices or the parts of one table.*train\.txt"):
        open_dataset(mixed)


def test_options_reach_the_reader(sources):
    assert open_dataset(sources / "table.csv", weight="w").interactions.weights.tolist() == [2.0]
    assert open_dataset(sources / "mpd", slices=(0, 1)).info["slices"] == 1


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mpd", {"weight": "w"}, "format 'mpd' has no option 'weight'; its options are: slices"),
        (
            "text",
            {"slices": (0, 1), "a": 1},
            "format 'text' has no option 'a', 'slices'; its options are: test",
        ),
        (
            "prepared",
            {"test": "x"},
            "format 'prepared' has no option 'test'; its options are: none",
        ),
    ],
)
def test_an_option_of_another_format_is_refused(sources, name, options, says):
    with pytest.raises(ValueError, match=says):
        open_dataset(sources / name, **options)


def test_an_unknown_format_is_refused(sources):
    with pytest.raises(ValueError, match=r"format must be auto, .*table, got 'pickle'"):
        open_dataset(sources / "mpd", format="pickle")


def test_what_cannot_be_told_says_what_is_there_and_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match=r"a folder that holds nothing; accepted are .*train\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(
        ValueError, match=r"a folder that holds notes\.md; accepted are a prepared folder"
    ):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.md: no separator found in its first line 'x'"):
        open_dataset(tmp_path / "notes.md")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        open_dataset(tmp_path / "nowhere")


def test_a_folder_of_two_formats_asks_for_one(sources):
    (sources / "mpd" / "train.txt").write_text("0 0\n")
    with pytest.raises(ValueError, match='give format="text" or format="mpd"'):
        open_dataset(sources / "mpd")
    assert open_dataset(sources / "mpd", format="text").info["format"] == "text"


@pytest.mark.slow
def test_importing_the_readers_is_cheap():
    code = "import sys, torch; before = set(sys.modules); import lightgcn.datasets; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "lightgcn.datasets" in loaded
    assert not loaded & {"pyarrow", "pandas", "tqdm"}


@pytest.mark.parametrize("name", ["skip_bad", "drop_missing"])
def test_an_option_of_tables_alone_does_not_make_lists_a_table(tmp_path, name):
    path = tmp_path / "lists.txt"
    path.write_text("0 1 2\n1 3\n")
    with pytest.raises(ValueError, match=f"format 'text' has no option '{name}'"):
        open_dataset(path, **{name: True})


def test_a_json_list_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"user": 1, "item": 2}]')
    with pytest.raises(ValueError, match=r"rows.json: a JSON list.*JSON Lines"):
        open_dataset(path)
