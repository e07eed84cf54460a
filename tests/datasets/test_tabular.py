import gzip
import lzma
import re

import pytest

from lightgcn.datasets import read_table

CSV = """user,item,stars,title,label
u2,"b, with comma",1.5,Second,B
u1,a,2,First,A
u2,a,1,Other,A

u1,a,0.25,First,A
"""


def put(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def naive(text):
    """Sum weights per pair of a CSV without quotes, with one Python loop."""
    header, *rows = [line.split(",") for line in text.splitlines() if line]
    weights = {}
    for row in rows:
        record = dict(zip(header, row, strict=True))
        pair = (record["user"], record["item"])
        weights[pair] = weights.get(pair, 0.0) + float(record.get("stars", 1))
    return weights


def as_dict(graph):
    users, items = graph.user_ids[graph.users.numpy()], graph.item_ids[graph.items.numpy()]
    values = [1.0] * graph.num_edges if graph.weights is None else graph.weights.tolist()
    return {(user, item): value for user, item, value in zip(users, items, values, strict=True)}


def test_csv_with_weights_and_names(tmp_path):
    path = put(tmp_path / "plays.csv", CSV)
    dataset = read_table(path, weight="stars", user_name="title", item_name="label")
    wanted = {("u1", "a"): 2.25, ("u2", "a"): 1.0, ("u2", "b, with comma"): 1.5}
    assert as_dict(dataset.interactions) == wanted
    assert dataset.interactions.user_ids.tolist() == ["u1", "u2"]
    assert dataset.users == {"name": ["First", "Second"]}
    assert dataset.items == {"name": ["A", "B"]}
    assert (dataset.info["entries"], dataset.info["edges"], dataset.info["duplicate_entries"]) == (
        4,
        3,
        1,
    )
    assert (dataset.info["user_names_passed_over"], dataset.info["item_names_passed_over"]) == (
        1,
        0,
    )


@pytest.mark.filterwarnings("ignore:.*every row counts")
def test_csv_reads_what_a_plain_loop_reads(tmp_path):
    rows = [f"{n % 7},t{n * n % 11},{n + 1}" for n in range(60)]
    text = "\n".join(["user,item,stars", *rows])
    dataset = read_table(put(tmp_path / "a.csv", text), weight="stars")
    assert as_dict(dataset.interactions) == naive(text)
    assert set(map(type, dataset.interactions.user_ids)) == {str}
    assert read_table(tmp_path / "a.csv").interactions.weights is None


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.tsv.xz", "A.TSV"])
def test_tsv_plain_and_compressed_with_other_column_names(tmp_path, name):
    data = "\ufeffwho\twhat\nx\t1,0\ny\t2\n".encode()
    data = (
        gzip.compress(data)
        if name.endswith("gz")
        else lzma.compress(data)
        if name.endswith("xz")
        else data
    )
    dataset = read_table(put(tmp_path / name, data), user="who", item="what")
    assert as_dict(dataset.interactions) == {("x", "1,0"): 1.0, ("y", "2"): 1.0}


def test_a_separator_overrides_the_suffix(tmp_path):
    dataset = read_table(put(tmp_path / "ratings.dat", "user;item\r\na;b\r\n"), separator=";")
    assert as_dict(dataset.interactions) == {("a", "b"): 1.0}
    assert as_dict(read_table(tmp_path / "ratings.dat").interactions) == {("a", "b"): 1.0}
    with pytest.raises(ValueError, match=r"separator must be one character.*'::'.*'ab'"):
        read_table(tmp_path / "ratings.dat", separator="ab")


BAD_CSV = {
    "missing column": (
        "user,thing\na,b\n",
        {},
        ": no column 'item'; the columns are 'user', 'thing'",
    ),
    "column twice": ("user,item,user\na,b,c\n", {}, ": more than one column 'user'"),
    "no weight column": (
        "user,item\na,b\n",
        {"weight": "w"},
        ": no column 'w'; the columns are 'user', 'item'",
    ),
    "empty file": ("", {}, ": the file is empty"),
    "header only": ("user,item\n\n", {}, ": the table has a header and no rows"),
    "empty user": ("user,item\na,b\n\n,c\n", {}, ", line 4: column 'user' is ''"),
    "blank item": ("user,item\na,b\nb,  \n", {}, ", line 3: column 'item' is '  '"),
    "too few fields": ("user,item\na,b\nc\n", {}, ", line 3: 1 fields, but the header has 2"),
    "too many fields": ("user,item\na,b,c\n", {}, ", line 2: 3 fields, but the header has 2"),
    "wrong separator": (
        "user;item\na;b\n",
        {"separator": ","},
        ": no column 'user'; the columns are 'user;item'",
    ),
    "weight text": (
        "user,item,w\na,b,1\na,c,lots\n",
        {"weight": "w"},
        ", line 3: column 'w' is 'lots'",
    ),
    "weight empty": ("user,item,w\na,b,\n", {"weight": "w"}, ", line 2: column 'w' is ''"),
    "weight NaN": ("user,item,w\na,b,nan\n", {"weight": "w"}, ", line 2: column 'w' is nan"),
    "weight inf": ("user,item,w\na,b,1\na,c,inf\n", {"weight": "w"}, ", line 3: column 'w' is inf"),
    "weight zero": (
        "user,item,w\na,b,0\n",
        {"weight": "w"},
        ", line 2: column 'w' is 0; a weight must be",
    ),
    "weight negative": ("user,item,w\na,b,-2\n", {"weight": "w"}, ", line 2: column 'w' is -2"),
    "weight overflow": ("user,item,w\na,b,1e39\n", {"weight": "w"}, ", line 2: column 'w' is 1e39"),
    "weight underflow": (
        "user,item,w\na,b,1e-60\n",
        {"weight": "w"},
        ", line 2: column 'w' is 1e-60",
    ),
    "not UTF-8": (b"user,item\na,\xff\n", {}, ": not UTF-8 text"),
}


@pytest.mark.parametrize(("text", "options", "says"), BAD_CSV.values(), ids=BAD_CSV.keys())
def test_a_bad_csv_is_refused_by_file_row_and_value(tmp_path, text, options, says):
    path = put(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match=re.escape(f"{path}{says}")) as caught:
        read_table(path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_truncated_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="this one holds nothing"):
        read_table(tmp_path)
    put(tmp_path / "a.csv.gz", gzip.compress(CSV.encode())[:-10])
    with pytest.raises(ValueError, match=r"a\.csv\.gz: not a readable \.gz file"):
        read_table(tmp_path / "a.csv.gz")


def test_a_long_field_is_read(tmp_path):
    path = put(tmp_path / "a.csv", "user,item\na,b\nc," + "x" * 200_000 + "\n")
    assert max(map(len, read_table(path).interactions.item_ids)) == 200_000


@pytest.fixture
def parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(columns, name="a.parquet"):
        parquet.write_table(pyarrow.table(columns), tmp_path / name)
        return tmp_path / name

    return write


def test_parquet_keeps_integer_ids_and_reads_strings(parquet):
    path = parquet(
        {
            "user": [30, -4, 30, 30],
            "item": ["b", "a", "b", "a"],
            "w": [1, 2, 3, 4],
            "t": ["x", "y", None, "z"],
        }
    )
    dataset = read_table(path, weight="w", user_name="t")
    assert as_dict(dataset.interactions) == {(-4, "a"): 2.0, (30, "a"): 4.0, (30, "b"): 4.0}
    assert dataset.interactions.user_ids.dtype.kind == "i"
    assert dataset.users == {"name": ["y", "x"]}
    assert dataset.info["duplicate_entries"] == 1


def test_parquet_categorical_columns_are_strings(parquet):
    import pyarrow

    path = parquet({"user": pyarrow.array(["b", "a", "b"]).dictionary_encode(), "item": [1, 2, 3]})
    assert read_table(path).interactions.user_ids.tolist() == ["a", "b"]


def test_one_parquet_column_may_serve_twice(parquet):
    dataset = read_table(parquet({"user": ["a", "b"], "item": [1, 2]}), user_name="user")
    assert dataset.users == {"name": ["a", "b"]}


BAD_PARQUET = {
    "missing column": (
        {"user": [1], "thing": [2]},
        {},
        ": no column 'item'; the columns are 'user', 'thing'",
    ),
    "no rows": ({"user": [], "item": []}, {}, ": the table has a header and no rows"),
    "null integer id": ({"user": [1, None], "item": [1, 2]}, {}, ", row 1: column 'user' is None"),
    "null string id": ({"user": [1, 2], "item": [None, "a"]}, {}, ", row 0: column 'item' is None"),
    "empty id": ({"user": [1, 2], "item": ["a", ""]}, {}, ", row 1: column 'item' is ''"),
    "float id": ({"user": [1.5, 2.0], "item": [1, 2]}, {}, ", row 0: column 'user' is 1.5"),
    "bool id": ({"user": [True, False], "item": [1, 2]}, {}, ", row 0: column 'user' is True"),
    "null weight": (
        {"user": [1, 2], "item": [1, 2], "w": [1, None]},
        {"weight": "w"},
        ", row 1: column 'w' is None",
    ),
    "text weight": (
        {"user": [1, 2], "item": [1, 2], "w": ["1", "x"]},
        {"weight": "w"},
        ", row 1: column 'w' is 'x'",
    ),
    "NaN weight": (
        {"user": [1], "item": [1], "w": [float("nan")]},
        {"weight": "w"},
        ", row 0: column 'w' is nan",
    ),
    "zero weight": (
        {"user": [1, 2], "item": [1, 2], "w": [1, 0]},
        {"weight": "w"},
        ", row 1: column 'w' is 0",
    ),
    "separator": (
        {"user": [1], "item": [1]},
        {"separator": ","},
        ": a Parquet file has no separator",
    ),
}


@pytest.mark.parametrize(
    ("columns", "options", "says"), BAD_PARQUET.values(), ids=BAD_PARQUET.keys()
)
def test_a_bad_parquet_table_is_refused_by_file_row_and_value(parquet, columns, options, says):
    path = parquet(columns)
    with pytest.raises(ValueError, match=re.escape(f"{path}{says}")):
        read_table(path, **options)


def test_an_unsigned_id_beyond_64_signed_bits_is_refused(parquet):
    import pyarrow

    path = parquet({"user": pyarrow.array([1, 2**63], pyarrow.uint64()), "item": [1, 2]})
    with pytest.raises(ValueError, match=rf"row 1: column 'user' is {2**63}"):
        read_table(path)


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path):
    pytest.importorskip("pyarrow")
    path = put(tmp_path / "a.parquet", "user,item\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable Parquet file")):
        read_table(path)


@pytest.mark.parametrize(
    "options", [{"item": "user"}, {"weight": "item"}, {"user": "w", "weight": "w"}]
)
def test_one_column_for_two_things_is_refused(tmp_path, options):
    path = tmp_path / "a.csv"
    path.write_text("user,item,w\n1,2,3\n")
    with pytest.raises(ValueError, match=r"a\.csv: column '\w+' is given twice"):
        read_table(path, **options)
