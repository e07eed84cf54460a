"""Odd tables: each row is read as what it is, or the file and the line are named."""

import datetime
import decimal
import json

import pyarrow
import pytest
from pyarrow import parquet

from lightgcn.datasets import open_dataset, read_table
from lightgcn.datasets.tabular.delimited import DelimitedText


def put(path, text):
    path.write_text(text, newline="")
    return path


def edges(dataset):
    graph = dataset.interactions
    pairs = zip(graph.users.tolist(), graph.items.tolist(), strict=True)
    return {(graph.user_ids[user], graph.item_ids[item]) for user, item in pairs}


def test_a_table_with_carriage_returns_names_the_line(tmp_path):
    with pytest.raises(ValueError, match="line 3: 1 fields"):
        read_table(put(tmp_path / "a.csv", "user,item\ra,x\rb\r"))
    blanks = put(tmp_path / "a.txt", " a  x \r b\ty\t\r")
    assert edges(read_table(blanks, columns="user,item")) == {("a", "x"), ("b", "y")}


@pytest.mark.parametrize(
    "names",
    [
        ("ml.train.inter", "ml.valid.inter", "ml.test.inter"),
        ("plays_train.csv", "plays_val.csv", "plays-test.csv"),
        ("train/part-0.csv", "validation/part-0.csv", "test/part-0.csv"),
        ("train-0-of-1.csv", "dev-0-of-1.csv", "test-0-of-1.csv"),
    ],
)
def test_parts_of_a_split_are_told_by_words_in_their_names(tmp_path, names):
    for name, item in zip(names, "abc", strict=True):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        put(file, "user\titem\nu\t" + item + "\n")
    dataset = open_dataset(tmp_path / "data")
    assert edges(dataset) == {("u", "a")}
    assert [int(part.items[0]) for part in (dataset.val, dataset.test)] == [1, 2]


def test_numbered_files_of_a_part_are_all_read(tmp_path):
    for number in (1, 2):
        put(tmp_path / f"train.{number}.csv", f"user,item\nu,{number}\n")
    assert edges(open_dataset(tmp_path)) == {("u", "1"), ("u", "2")}


@pytest.mark.parametrize(
    "names",
    [("train.csv", "train.csv.gz"), ("train.csv", "val.csv", "valid.csv"),
     ("a_train.csv", "a_test.csv", "a.csv"), ("a_train.csv", "b_train.csv", "a_test.csv")],
)  # fmt: skip
def test_files_that_may_be_one_part_or_another_are_refused(tmp_path, names):
    for name in names:
        put(tmp_path / name, "user,item\nu,a\n")
    with pytest.raises(ValueError, match="name the files"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("columns", [None, "user,item"])
def test_a_header_among_the_rows_is_named_or_left_out(tmp_path, columns):
    path = put(tmp_path / "a.csv", "User,Item\na,x\nUser,Item\nb,y\n")
    with pytest.raises(ValueError, match=f"line {3 if columns is None else 1}: 'User' and 'Item'"):
        read_table(path, columns=columns)
    dataset = read_table(path, columns=columns, skip_bad=True)
    assert edges(dataset) == {("a", "x"), ("b", "y")}
    assert dataset.info["skipped_rows"] == (1 if columns is None else 2)


@pytest.mark.parametrize("least", [float("nan"), float("inf"), True, "4"])
def test_a_least_rating_must_be_a_finite_number(tmp_path, least):
    path = put(tmp_path / "a.csv", "user,item,rating\na,x,5\n")
    with pytest.raises(ValueError, match=f"min_rating must be a finite number, got {least!r}"):
        read_table(path, min_rating=least)


def test_a_column_name_does_not_replace_the_chosen_names(tmp_path):
    path = put(tmp_path / "a.csv", "user,item\na,x\n")
    items = put(tmp_path / "items.csv", "item,title,name\nx,Title,Other\n")
    dataset = read_table(path, items=items, item_name="title")
    assert dataset.items == {"name": ["Title"], "name_column": ["Other"]}


def test_times_of_one_part_in_numbers_and_of_another_in_dates_are_refused(tmp_path):
    path = put(tmp_path / "a.csv", "user,item,t\na,x,1388534400\n")
    val = put(tmp_path / "b.csv", "user,item,t\na,y,2014-01-01\n")
    with pytest.raises(ValueError, match=r"b.csv: column 't' holds dates, and numbers in .*a.csv"):
        read_table(path, time="t", val=val)


def test_many_bad_rows_are_counted_in_one_pass(tmp_path, monkeypatch):
    passes = []
    rows = DelimitedText._rows
    monkeypatch.setattr(
        DelimitedText, "_rows", lambda file, *given: passes.append(1) or rows(file, *given)
    )
    lines = "".join(f"u{row},{'' if row % 2 else 'x'}\n" for row in range(4000))
    dataset = read_table(put(tmp_path / "a.csv", "user,item\n" + lines), skip_bad=True)
    assert (dataset.info["skipped_rows"], dataset.info["entries"]) == (2000, 2000)
    assert len(dataset.info["skipped"]) == 1000
    assert "line 2001:" in dataset.info["skipped"][999]
    assert len(passes) == 1


def test_integer_ids_that_are_missing_are_dropped(tmp_path):
    path = put(tmp_path / "a.jsonl", '{"user":1,"item":2}\n{"user":null,"item":3}\n{"item":4}\n')
    dataset = read_table(path, drop_missing=True)
    assert (edges(dataset), dataset.info["rows_without_id"]) == ({(1, 2)}, 2)


def test_parts_with_other_types_of_numbers_and_times_are_joined(tmp_path):
    days = [datetime.datetime(2014, 1, day) for day in (1, 2)]
    for part, (number, unit) in enumerate(((pyarrow.int32(), "us"), (pyarrow.int64(), "ns"))):
        columns = {
            "user": pyarrow.array([part], number),
            "item": pyarrow.array(["x"], pyarrow.large_string() if part else pyarrow.string()),
            "t": pyarrow.array([days[part]], pyarrow.timestamp(unit)),
            "w": pyarrow.array([part + 1.5]) if part else pyarrow.array([1]),
        }
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{part}.parquet")
    graph = open_dataset(tmp_path, time="t", weight="w").interactions
    assert graph.user_ids.tolist() == [0, 1] and graph.weights.tolist() == [1.0, 2.5]
    assert graph.order.tolist() == [1388534400 * 10**9, 1388620800 * 10**9]
    put(tmp_path / "a.jsonl", '{"user":1,"item":2}\n')
    put(tmp_path / "b.jsonl", '{"user":"1","item":2}\n')
    with pytest.raises(ValueError, match=r"int64 in .*a.jsonl, .*string.* in .*b.jsonl"):
        open_dataset([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_nested_columns_of_items_become_json(tmp_path, kind):
    path = put(tmp_path / "a.csv", "user,item\na,x\n")
    columns = {"item": ["x"], "title": ["T"], "genres": [["p", "q"]], "size": [{"cm": 3}]}
    items = tmp_path / f"items.{kind}"
    if kind == "jsonl":
        put(items, json.dumps({name: values[0] for name, values in columns.items()}) + "\n")
    else:
        parquet.write_table(pyarrow.table(columns), items)
    wanted = {"name": ["T"], "genres": ['["p","q"]'], "size": ['{"cm":3}']}
    assert read_table(path, items=items).items == wanted


def test_a_large_integer_that_json_reads_as_a_float_is_no_id(tmp_path):
    path = put(
        tmp_path / "a.jsonl", '{"user":"a","item":1}\n{"user":12345678901234567890123,"item":2}\n'
    )
    with pytest.raises(ValueError, match=r"line 2: 'user' is 1.23.*e.22, beyond 64-bit integers"):
        read_table(path)


def test_a_held_out_file_without_the_column_of_names_is_named(tmp_path):
    path = put(tmp_path / "a.csv", "user,item,title\na,x,T\n")
    test = put(tmp_path / "b.csv", "user,item\na,y\n")
    with pytest.raises(ValueError, match=r"b.csv: no column 'title'"):
        read_table(path, item_name="title", test=test)


def test_a_file_of_items_that_fits_no_item_is_a_warning(tmp_path):
    path = put(tmp_path / "a.csv", "user,item\na,x\n")
    items = put(tmp_path / "items.csv", "item,title\nz,T\n")
    with pytest.warns(UserWarning, match=r"items.csv: no row has an id of .* items.*'z'.*'x'"):
        read_table(path, items=items)
    put(items, "item,title,year,year\nx,T,1,2\n")
    with pytest.raises(ValueError, match=r"items.csv: more than one column 'year'"):
        read_table(path, items=items)


def test_a_held_out_file_of_which_no_row_is_left_is_named(tmp_path):
    path = put(tmp_path / "a.csv", "user,item,rating\na,x,5\n")
    low = put(tmp_path / "low.csv", "user,item,rating\na,y,1\n")
    with pytest.raises(ValueError, match=r"low.csv: no row is left; rows below min rating: 1"):
        read_table(path, min_rating=3, test=low)
    put(path, "user,item\na\nb\n")
    with pytest.raises(ValueError, match=r"a.csv: no row is left; skipped rows: 2"):
        read_table(path, skip_bad=True)


def test_decimals_are_times(tmp_path):
    times = [decimal.Decimal("2.5"), decimal.Decimal("1.0")]
    table = pyarrow.table({"user": ["a", "a"], "item": ["x", "y"], "t": times})
    parquet.write_table(table, tmp_path / "a.parquet")
    dataset = read_table(tmp_path / "a.parquet", time="t")
    assert dataset.interactions.order.tolist() == [2.5, 1.0]


def test_files_with_integers_and_strings_as_ids_are_named(tmp_path):
    parquet.write_table(pyarrow.table({"user": [1], "item": [2]}), tmp_path / "a.parquet")
    test = put(tmp_path / "b.csv", "user,item\n1,2\n")
    with pytest.raises(ValueError, match=r"'user' has integers .*a.parquet int64.*b.csv"):
        read_table(tmp_path / "a.parquet", test=test)
