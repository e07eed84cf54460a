"""Text tables: every row is read, or an error or a count names it."""

import csv
import io
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightgcn.datasets import open_dataset, read_table, read_text
from lightgcn.datasets.tabular.delimited import DelimitedText


def put(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def edges(dataset):
    graph = dataset.interactions
    pairs = zip(graph.users.tolist(), graph.items.tolist(), strict=True)
    return {(graph.user_ids[user], graph.item_ids[item]) for user, item in pairs}


fields = st.text(st.sampled_from('ab,;" \t\\é1.'), min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=12),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_csv_writes_is_read(tmp_path_factory, rows, separator, end, quoting):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows(
        [("user", "item"), *rows]
    )
    path = put(tmp_path_factory.mktemp("t") / "a.csv", text.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_table(path, separator=separator)
    assert edges(dataset) == set(rows)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from('ab,"\n'), max_size=40), skip=st.booleans())
def test_pyarrow_and_csv_read_the_same(tmp_path_factory, text, skip):
    data = ("user,item\n" + text).encode()
    file = DelimitedText(tmp_path_factory.getbasetemp() / "a.csv", data, ",", None)
    plain = None
    try:
        plain = file._by_csv(["user", "item"], [0, 1], False, skip, False)
        found = file.read(["user", "item"], skip_bad=skip, progress=False)
    except ValueError:
        if plain is not None:
            raise
        with pytest.raises(ValueError):
            file.read(["user", "item"], skip_bad=skip, progress=False)
        return
    for name in ("user", "item"):
        assert found.columns[name].to_pylist() == plain.columns[name].to_pylist()
    rows = range(found.num_rows)
    assert [found.place(row) for row in rows] == [plain.place(row) for row in rows]
    assert found.num_skipped == plain.num_skipped


STRAY = {
    "open at the end": ('1,a,"Heroes\n2,b,x\n3,c,y\n', "line 2: a quote opens here and does not"),
    "closed by a later row": ('1,a,"Heroes\n2,b,x\n3,c,s"\n4,d,y\n', "line 2: a quote opens here"),
    "in the first column": ('1,a,x\n"2,b,x\n3,c,y\n', "line 3: a quote opens here and does not"),
    "text after a quote": ('1,a,x\n2,b,"x"y\n', "line 3: not readable as a table"),
}


@pytest.mark.parametrize(("body", "says"), STRAY.values(), ids=STRAY.keys())
def test_a_stray_quote_is_named_by_its_line(tmp_path, body, says):
    path = put(tmp_path / "q.csv", "user,item,name\n" + body)
    with pytest.raises(ValueError, match=re.escape(f"{path}, {says}")):
        read_table(path)
    rows = 4 if "4,d" in body else len(body.splitlines())
    tabs = put(tmp_path / "q.tsv", ("user,item,name\n" + body).replace(",", "\t"))
    assert read_table(tabs).interactions.num_edges == rows  # where a quote is a character


def test_a_field_of_several_lines_is_read(tmp_path):
    body = 'user,item,text\n1,a,"one\ntwo ""and""\nthree"\n"2\n2",b,"x, y"\n'
    dataset = read_table(put(tmp_path / "a.csv", body), item_name="text")
    assert dataset.items["name"] == ['one\ntwo "and"\nthree', "x, y"]
    assert dataset.interactions.user_ids.tolist() == ["1", "2\n2"]


def test_backslashes_before_quotes(tmp_path):
    body = '"user";"item";"name"\n"1";"a";"say \\"hi\\"; twice"\n"2";"b";"x"\n'
    dataset = read_table(put(tmp_path / "a.csv", body), item_name="name")
    assert dataset.items["name"] == ['say "hi"; twice', "x"]


def test_triples_are_refused_with_the_line_that_reads_them(tmp_path):
    path = put(tmp_path / "train.txt", "1 5 3\n1 7 4\n2 5 5\n2 9 1\n3 7 2\n")
    for source in (path, tmp_path):
        with pytest.raises(ValueError, match=r"train\.txt: .*--columns user,item,weight"):
            open_dataset(source)
    with pytest.raises(ValueError, match="--columns user,item,weight"):
        read_text(path)
    dataset = open_dataset(path, columns="user,item,weight", weight="weight")
    assert dataset.interactions.num_edges == 5
    assert dataset.interactions.weights.tolist() == [3.0, 4.0, 5.0, 1.0, 2.0]
    assert open_dataset(path, format="lists").interactions.num_edges == 9


def test_lists_of_one_length_are_no_triples_where_users_do_not_recur(tmp_path):
    path = put(tmp_path / "train.txt", "0 5 3\n1 7 4\n2 5 9\n")
    assert read_text(path).interactions.num_edges == 6


def test_pairs_of_one_user_are_no_counts(tmp_path):
    graph = read_text(put(tmp_path / "train.txt", "1 4\n1 5\n1 6\n")).interactions
    assert graph.items_of(1).tolist() == [4, 5, 6]


def test_counted_lists_are_recognised_and_held_to_their_counts(tmp_path):
    path = put(tmp_path / "users.dat", "3 10 11 12\n2 10 13\n0\n3 12 13 14\n")
    dataset = open_dataset(path)
    graph = dataset.interactions
    assert graph.user_degrees.tolist() == [3, 2, 0, 3] and "counts" in dataset.info["layout"]
    put(path, "3 10 11 12\n2 10 13 14\n")
    with pytest.raises(ValueError, match=r"users\.dat, line 2: begins with 2, and 3 numbers"):
        open_dataset(path, format="counts")


def test_words_for_nothing_are_counted_or_dropped(tmp_path):
    path = put(tmp_path / "n.csv", "user,item\nNaN,a\nNULL,b\nNaN,c\n\\N,d\nx,None\ny,a\nnano,a\n")
    with pytest.warns(UserWarning) as caught:
        read_table(path)
    told = [str(warning.message) for warning in caught]
    assert "'NaN' (2), 'NULL' (1), '\\\\N' (1)" in told[0] and "'user'" in told[0]
    assert "'None' (1)" in told[1] and "'item'" in told[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = read_table(path, drop_missing=True)
    assert edges(dataset) == {("y", "a"), ("nano", "a")}
    assert dataset.info["rows_without_id"] == 5


def test_integers_written_as_floats_are_integers(tmp_path):
    dataset = read_table(put(tmp_path / "f.csv", "user,item\n1.0,a\n2.0,b\n1,c\n"))
    assert edges(dataset) == {("1", "a"), ("2", "b"), ("1", "c")}
    assert dataset.info["user_ids_written_as_floats"] == 2
    dataset = read_table(put(tmp_path / "f.csv", "user,item\n1.0,a\n2.5,b\n1,c\n"))
    assert edges(dataset) == {("1.0", "a"), ("2.5", "b"), ("1", "c")}  # versions, say


def test_a_header_and_a_row_are_told_apart(tmp_path):
    path = put(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    with pytest.raises(ValueError, match=r"u\.data: the first line \(196, 242, 3.*--columns user,"):
        open_dataset(path)
    assert open_dataset(path, columns=["user", "item", "_", "time"]).interactions.num_edges == 2
    with pytest.raises(ValueError, match=r"3 columns are named .* 4 fields"):
        open_dataset(path, columns="user,item,rating")
    headed = put(tmp_path / "a.csv", "userId,movieId\n1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"\(userId, movieId\) looks like a header"):
        read_table(headed, columns="user,item")
    isbn = put(tmp_path / "b.csv", "1,034545104X\n2,0345451040\n3,0345451041\n")
    assert read_table(isbn, columns="user,item").interactions.num_edges == 3


def test_broken_rows_are_left_out_counted_and_described(tmp_path):
    body = "user,item,w\na,b,1\nc,d\n,e,1\nf,g,zero\nh,i,0\nj,k,2\nl,m,1,1\n"
    path = put(tmp_path / "a.csv", body)
    with pytest.raises(ValueError, match="line 3: 2 fields, but the header has 3"):
        read_table(path, weight="w")
    dataset = read_table(path, weight="w", skip_bad=True)
    assert edges(dataset) == {("a", "b"), ("j", "k")} and dataset.info["skipped_rows"] == 5
    found = sorted(re.search(r"line (\d)", problem)[1] for problem in dataset.info["skipped"])
    assert found == ["3", "4", "5", "6", "8"]
    assert dataset.info["entries"] == 2


def test_ratings_keep_what_is_liked_and_a_column_that_is_not_used_is_told(tmp_path):
    path = put(tmp_path / "r.csv", "user,item,rating\na,x,5\na,y,3.5\nb,x,4\nc,y,1\n")
    with pytest.warns(UserWarning, match=r"'rating' is not used.*implicit feedback"):
        assert read_table(path).interactions.num_edges == 4
    dataset = read_table(path, min_rating=4)
    assert edges(dataset) == {("a", "x"), ("b", "x")} and dataset.info["rows_below_min_rating"] == 2
    for options, says in (
        ({"rating": "rating"}, "needs min_rating"),
        ({"rating": "stars", "min_rating": 4}, "no column 'stars'"),
        ({"min_rating": "four"}, "min_rating must be a finite number, got 'four'"),
        ({"min_rating": 6}, "no row is left; rows below min rating: 4"),
    ):
        with pytest.raises(ValueError, match=says):
            read_table(path, **options)
    put(path, "user,item,rating\na,x,5\na,y,good\n")
    with pytest.raises(ValueError, match="line 3: column 'rating' is 'good'"):
        read_table(path, min_rating=4)


TIMES = {
    "seconds": (["978300760", "978300755", " 978300761"], [978300760, 978300755, 978300761]),
    "fractions": (["2.5", "1.5", "3"], [2.5, 1.5, 3.0]),
    "dates": (["2014-03-02", "2014-03-01", "2014-03-03"], [1, 0, 2]),
    "times": (
        ["2014-03-01T12:00:01", "2014-03-01 12:00:00.5", "2014-03-01T12:00:02"],
        [1, 0, 2],
    ),
    "zones": (["2014-03-01T12:00:00Z", "2014-03-01T12:30:00+01:00", "2014-03-01T13:00:00Z"], None),
}


@pytest.mark.parametrize(("texts", "wanted"), TIMES.values(), ids=TIMES.keys())
def test_times_order_the_edges(tmp_path, texts, wanted):
    rows = "".join(f"u,{item},{time}\n" for item, time in zip("abc", texts, strict=True))
    dataset = read_table(put(tmp_path / "a.csv", "user,item,t\n" + rows), time="t")
    order = dataset.interactions.order.tolist()
    if isinstance(wanted, list) and wanted[0] > 2:
        assert order == wanted
    assert np.argsort(order).tolist() == [1, 0, 2]
    if texts[0] == "2014-03-02":
        assert order[0] == np.datetime64("2014-03-02", "ns").astype(int)


def test_a_time_that_is_none_is_named(tmp_path):
    path = put(tmp_path / "a.csv", "user,item,t\na,x,2014-03-01\na,y,soon\n")
    with pytest.raises(ValueError, match=r"line 3: column 't' is 'soon'; a time must be"):
        read_table(path, time="t")
    put(path, "user,item,t\na,x,5\na,y,2014-03-01\n")
    with pytest.raises(ValueError, match=r"line 3: column 't' is '2014-03-01'"):
        read_table(path, time="t")


def test_an_earlier_time_of_a_repeated_row_counts(tmp_path):
    path = put(tmp_path / "a.csv", "user,item,t\na,x,5\na,x,3\na,y,4\n")
    assert read_table(path, time="t").interactions.order.tolist() == [3, 4]


def test_files_of_items_and_users(tmp_path):
    path = put(tmp_path / "a.csv", "user,item\n1,10\n2,11\n2,12\n")
    items = put(
        tmp_path / "items.tsv", "item\ttitle\tartist\n11\tEleven\tE\n10\tTen\tT\n99\tNo\tN\n"
    )
    users = put(tmp_path / "users.csv", "user,name\n1,Ann\n2,Bob\n2,Rob\n")
    dataset = read_table(path, items=items, users=users)
    assert dataset.items == {"name": ["Ten", "Eleven", ""], "artist": ["T", "E", ""]}
    assert dataset.users == {"name": ["Ann", "Bob"]}
    assert dataset.info["items_not_in_their_file"] == 1
    assert dataset.info["item_rows_of_no_interaction"] == 1
    assert dataset.info["user_rows_repeated"] == 1
    for options, says in (
        ({"item_id": "item"}, "give items"),
        ({"items": items, "item_id": "id"}, r"items\.tsv: no column 'id'"),
        ({"items": items, "item_name": "label"}, r"items\.tsv: no column 'label'"),
        ({"items": tmp_path / "none.csv"}, r"none\.csv: no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            read_table(path, **options)


def test_held_out_files_share_the_ids(tmp_path):
    path = put(tmp_path / "a.csv", "user,item\na,x\nb,y\n")
    test = put(tmp_path / "t.csv", "user,item\na,y\nnew,z\n")
    dataset = read_table(path, test=test)
    assert dataset.interactions.user_ids.tolist() == ["a", "b", "new"]
    assert dataset.test.num_edges == 2 and dataset.info["test_edges"] == 2
    put(test, "person,item\na,y\n")
    with pytest.raises(ValueError, match=r"t\.csv: no column 'user'"):
        read_table(path, test=test)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1251"])
def test_encodings(tmp_path, encoding):
    name = "Пётр" if encoding == "cp1251" else "Björk"
    path = put(tmp_path / "a.csv", f"user,item\n{name},1\n".encode(encoding))
    assert edges(read_table(path, encoding=encoding)) == {(name, "1")}
    if encoding == "utf-16":
        assert edges(read_table(path)) == {(name, "1")}
    else:
        with pytest.raises(ValueError, match=r"a\.csv: not UTF-8 text \(line 2.*encoding"):
            read_table(path)
    with pytest.raises(ValueError, match="not nonsense text"):
        read_table(path, encoding="nonsense")


def test_a_pipe_is_read_once(tmp_path):
    code = (
        "from lightgcn.datasets import open_dataset; print(open_dataset('/dev/stdin').interactions)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"user;item\na;b\n", capture_output=True, check=False
    )
    assert b"1 users, 1 items, 1 edges" in done.stdout, done.stderr


def test_parts_name_the_part_and_its_line(tmp_path):
    put(tmp_path / "p1.csv", "user,item,w\na,x,1\nb,x,1\n")
    put(tmp_path / "p2.csv", 'user,item,w\n"c",x,1\nd,x,0\n')
    with pytest.raises(ValueError, match=r"p2\.csv, line 3: column 'w' is 0"):
        read_table(tmp_path, weight="w")
    assert read_table(tmp_path).interactions.num_edges == 4


def test_json_lines_are_named_by_line(tmp_path):
    path = put(tmp_path / "a.jsonl", '{"user": 1, "item": "x"}\n\n{"user": "1", "item": "y"}\n')
    assert edges(open_dataset(path)) == {("1", "x"), ("1", "y")}
    for line, says in (
        ('{"user": [1], "item": "x"}', r"line 4: 'user' is \[1\]"),
        ('{"user": 1', "line 4: not valid JSON"),
        ('["a"]', "line 4: not a JSON object"),
    ):
        put(path, '{"user": 1, "item": "x"}\n\n{"user": 2, "item": "y"}\n' + line + "\n")
        with pytest.raises(ValueError, match=says):
            open_dataset(path)
        if "[1]" in line:
            assert open_dataset(path, skip_bad=True).info["skipped_rows"] == 1
    put(path, '{"user": 1, "item": "x"}\n{"user": 2}\n')
    with pytest.raises(ValueError, match="line 2: column 'item' is None"):
        open_dataset(path)


def test_a_member_that_is_not_there_lists_those_that_are(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.csv", "user,item\na,b\n")
        archive.writestr("two.csv", "user,item\na,b\n")
    with pytest.raises(ValueError, match=r"a\.zip: the archive holds one\.csv, two\.csv; name one"):
        open_dataset(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match=r"no such file in the archive; it holds one\.csv"):
        open_dataset(tmp_path / "a.zip" / "three.csv")
    assert open_dataset(tmp_path / "a.zip" / "two.csv").interactions.num_edges == 1
    put(tmp_path / "b.zip", "no archive")
    with pytest.raises(ValueError, match=r"b\.zip: not a readable \.zip archive"):
        open_dataset(tmp_path / "b.zip")


def test_blanks_alone_are_an_empty_file(tmp_path):
    for text in ("\n \n\n", "\x0b\n", " "):
        with pytest.raises(ValueError, match=r"a\.tsv: the file is empty"):
            read_table(put(tmp_path / "a.tsv", text))
