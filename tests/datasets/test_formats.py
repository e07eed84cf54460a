"""Each kind of file of docs/formats.md goes in by its command."""

import bz2
import gzip
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightgcn.cli.main import main
from lightgcn.datasets import Dataset

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text()
COMMANDS = [
    shlex.split(command.replace("\\|", "|"))
    for command in re.findall(r"^\| .* \| `(.*)` \|$", PAGE, re.MULTILINE)
]
CSV = "user,item\nann,a\nbob,a\nann,b\n"
RATINGS = [(1, 1193, 5), (1, 661, 3), (2, 1193, 4), (2, 914, 5), (3, 914, 1)]
SLICE = {
    "playlists": [
        {"pid": pid, "name": "x", "tracks": [{"track_uri": f"t{t}"} for t in tracks]}
        for pid, tracks in ((0, (0, 1)), (1, (0, 1)), (2, (0,)))
    ]
}


def lines(template):
    """Write the ratings, one on each line."""
    times = range(978300760, 978300760 + len(RATINGS))
    rows = [template.format(*row, time) for row, time in zip(RATINGS, times, strict=True)]
    return "\n".join(rows) + "\n"


def reviews():
    records = [
        {"reviewerID": u, "asin": i, "overall": 5.0, "text": 'a "b"'}
        for u, i in (("A", "x"), ("B", "x"))
    ]
    return "\n".join(map(json.dumps, records)) + "\n"


def parquet(path):
    import pyarrow
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table({"user": ["ann", "bob"], "item": [1, 2]}), path)


def zstandard(text):
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A small file of each kind."""
    monkeypatch.chdir(tmp_path)
    texts = {
        "plays.csv": CSV,
        "plays.tsv": CSV.replace(",", "\t"),
        "listens.csv": "listener,song,plays\nann,a,2\nann,a,1\nbob,b,5\n",
        "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"1";"0\xe9";"0"\n"2";"07";"5"\n',
        "u.data": lines("{}\t{}\t{}\t{}"),
        "ratings.dat": lines("{}::{}::{}::{}"),
        "movies.dat": "1193::Cuckoo, \xe9t\xe9 (1975)::Drama\n914::Lady::Musical|Romance\n",
        "ratings.csv": "userId,movieId,rating,timestamp\n" + lines("{},{},{},{}"),
        "movies.csv": 'movieId,title,genres\n1193,"Cuckoo, the (1975)",Drama\n914,Lady,Musical\n',
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + lines("{}\t{}\t{}\t{}"),
        "filmtrust.txt": "1 1  2\n1 2 4\n2  1 3.5\n",
        "selfrec/train.txt": "0 5 1\n0 6 1\n1 5 1\n",
        "selfrec/test.txt": "1 6 1\n",
        "gowalla/train.txt": "0 0 1\n1 2\n2 0 1 2\n",
        "gowalla/test.txt": "1 0\n",
        "gowalla-valid/train.txt": "0 0 1\n1 2\n2 0 1 2\n",
        "gowalla-valid/valid.txt": "1 1\n",
        "gowalla-valid/test.txt": "1 0\n",
        "users.dat": "3 10 11 12\n2 10 13\n3 12 13 14\n",
        "reviews.json": reviews(),
        "part-1.csv": CSV,
        "part-2.csv": "item,user\nc,eve\n",
        "held-out.csv": "user,item\nbob,b\n",
        "valid.csv": "user,item\nbob,c\n",
        "splits/train.tsv": CSV.replace(",", "\t"),
        "splits/valid.tsv": "user\titem\nbob\tc\n",
        "splits/test.tsv": "user\titem\nbob\tb\n",
        "broken.csv": CSV + "eve\nx,y,z\n,c\n",
        "missing.csv": CSV + "NaN,a\n\\N,b\nnull,a\n",
        "mpd/README.md": "about",
        "mpd/stats.txt": "1",
        "mpd/src/show.py": "",
        "mpd/data/mpd.slice.0-999.json": "\ufeff" + json.dumps(SLICE),
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        latin = name in ("BX-Book-Ratings.csv", "movies.dat")
        path.write_bytes(text.encode("latin-1" if latin else "utf-8"))
    packed = {
        "reviews.jsonl.gz": gzip.compress(reviews().encode()),
        "plays.csv.zst": zstandard(CSV),
        "plays.csv.gz": gzip.compress(CSV.encode()),
        "mpd-gz/mpd.slice.0-999.json.gz": gzip.compress(json.dumps(SLICE).encode()),
    }
    for name, data in packed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    archives = {
        "ml-100k.zip": {"ml-100k/u.data": texts["u.data"], "ml-100k/README": "about"},
        "plays.zip": {"plays.csv": CSV},
        "spotify_million_playlist_dataset.zip": {
            "data/mpd.slice.0-999.json": json.dumps(SLICE),
            "data/mpd.slice.1000-1999.json": "[]",
            "README.md": "about",
        },
    }
    for name, contents in archives.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, text in contents.items():
                archive.writestr(member, text)
    parquet(tmp_path / "plays.parquet")
    (tmp_path / "spark").mkdir()
    for part in ("part-00000.snappy.parquet", "part-00001.snappy.parquet"):
        parquet(tmp_path / "spark" / part)
    (tmp_path / "spark" / "_SUCCESS").write_text("")
    assert main(["prepare", "plays.csv", "prepared"]) == 0
    return tmp_path


# Users, items, edges, test edges, validation edges of what each source holds.
RIGHT = {
    "plays.csv": (2, 2, 3, None, None),
    "listens.csv": (2, 2, 2, None, None),
    "BX-Book-Ratings.csv": (2, 2, 2, None, None),
    "plays.tsv": (2, 2, 3, None, None),
    "u.data": (2, 2, 3, None, None),
    "ratings.dat": (2, 2, 3, None, None),
    "ratings.csv": (2, 2, 3, None, None),
    "ml-100k.inter": (3, 3, 5, None, None),
    "filmtrust.txt": (2, 2, 3, None, None),
    "selfrec": (2, 2, 3, 1, None),
    "gowalla": (3, 3, 6, 1, None),
    "gowalla-valid": (3, 3, 6, 1, 1),
    "users.dat": (3, 15, 8, None, None),
    "reviews.json": (2, 1, 2, None, None),
    "reviews.jsonl.gz": (2, 1, 2, None, None),
    "plays.parquet": (2, 2, 2, None, None),
    "spark": (2, 2, 2, None, None),
    "part-1.csv": (3, 3, 4, None, None),
    "plays.csv.zst": (2, 2, 3, None, None),
    "ml-100k.zip/ml-100k/u.data": (3, 3, 5, None, None),
    "plays.zip": (2, 2, 3, None, None),
    "/dev/stdin": (2, 2, 3, None, None),
    "plays.csv --test": (2, 3, 3, 1, 1),
    "splits": (2, 3, 3, 1, 1),
    "broken.csv": (2, 2, 3, None, None),
    "missing.csv": (2, 2, 3, None, None),
    "mpd/data": (3, 2, 5, None, None),
    "mpd": (3, 2, 5, None, None),
    "spotify_million_playlist_dataset.zip": (3, 2, 5, None, None),
    "mpd-gz": (3, 2, 5, None, None),
    "prepared": (1, 1, 0, None, None),
}


def source_of(command):
    name = command[command.index("prepare") + 1]
    return f"{name} --test" if "--test" in command else name


def test_the_page_has_twenty_kinds_and_a_result_for_each():
    assert len(COMMANDS) >= 20
    assert {source_of(command) for command in COMMANDS} == set(RIGHT)


def run(command):
    if "|" in command:
        at = command.index("|")
        data = gzip.decompress(Path(command[1]).read_bytes())
        script = [sys.executable, "-m", "lightgcn", *command[at + 2 :]]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(script, input=data, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return 0
    return main(command[1:])


@pytest.mark.filterwarnings("ignore:.*is not used. every row counts")
@pytest.mark.parametrize("command", COMMANDS, ids=map(source_of, COMMANDS))
def test_the_command_reads_all_of_its_source(sources, command, capsys):
    if source_of(command) == "prepared":  # no node has two edges to spare in so small a graph
        assert main([*command[1:-2], "--sample", "2"]) == 0
        return
    assert run(command) == 0
    dataset = Dataset.load("out")
    graph = dataset.interactions
    sizes = (graph.num_users, graph.num_items, graph.num_edges)
    held_out = [None if part is None else part.num_edges for part in (dataset.test, dataset.val)]
    assert (*sizes, *held_out) == RIGHT[source_of(command)]


@pytest.mark.filterwarnings("ignore:.*is not used. every row counts")
@pytest.mark.parametrize("name", ["ratings.dat", "ratings.csv"])
def test_names_and_times_of_movielens(sources, name):
    command = next(one for one in COMMANDS if source_of(one) == name)
    assert run(command) == 0
    dataset = Dataset.load("out")
    graph, names = dataset.interactions, dataset.items["name"]
    assert "914" in graph.item_ids.tolist()
    at = graph.item_ids.tolist().index("1193")
    assert names[at].startswith("Cuckoo, ") and "Lady" in names
    assert dataset.items["genres"][at] == "Drama"
    assert graph.order is not None
    edges = zip(graph.users.tolist(), graph.items.tolist(), graph.order.tolist(), strict=True)
    found = {(graph.user_ids[u], graph.item_ids[i]): time - 978300760 for u, i, time in edges}
    assert found == {("1", "1193"): 0, ("2", "1193"): 2, ("2", "914"): 3}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
def test_a_compressed_file_without_its_suffix_is_recognised(tmp_path, pack):
    for name in ("plays.csv", "plays"):
        (tmp_path / name).write_bytes(pack(CSV.encode()))
        assert main(["prepare", str(tmp_path / name), str(tmp_path / f"out-{name}")]) == 0
        assert Dataset.load(tmp_path / f"out-{name}").interactions.num_edges == 3
