import json
import re

import pytest
import torch

from lightgcn.cli import main as cli
from lightgcn.datasets import read_mpd


def track(uri, name="a song", artist="an artist"):
    return {
        "pos": 0,
        "artist_name": artist,
        "track_uri": f"spotify:track:{uri}",
        "artist_uri": f"spotify:artist:{artist}",
        "track_name": name,
        "album_uri": "spotify:album:x",
        "duration_ms": 1000,
        "album_name": f"album of {artist}",
    }


def playlist(pid, *tracks, name="a title"):
    return {
        "name": name,
        "collaborative": "false",
        "pid": pid,
        "num_tracks": 999,
        "tracks": list(tracks),
    }


def write(path, playlists, indent=None):
    path.write_text(
        json.dumps({"info": {"version": "v1"}, "playlists": playlists}, indent=indent),
        encoding="utf-8",
    )
    return path


def minimal(uri):
    return {"track_uri": uri, "track_name": uri.upper()}


def naive(files):
    """Read slices, in the order given, with one Python loop."""
    pids, titles, uris, names, pairs, entries = [], [], [], [], set(), 0
    for file in files:
        for record in json.loads(file.read_text(encoding="utf-8"))["playlists"]:
            pids.append(record["pid"])
            titles.append(record.get("name", ""))
            for entry in record["tracks"]:
                entries += 1
                if entry["track_uri"] not in uris:
                    uris.append(entry["track_uri"])
                    names.append(entry.get("track_name", ""))
                pairs.add((len(pids) - 1, uris.index(entry["track_uri"])))
    return pids, titles, uris, names, sorted(pairs), entries


def assert_matches_naive(dataset, files):
    pids, titles, uris, names, pairs, entries = naive(files)
    assert dataset.interactions.user_ids.tolist() == pids
    assert dataset.interactions.item_ids.tolist() == uris
    assert dataset.users["name"] == titles
    assert dataset.items["name"] == names
    assert dataset.interactions.edge_index.T.tolist() == [list(pair) for pair in pairs]
    counts = {"playlists": len(pids), "tracks": len(uris), "entries": entries, "edges": len(pairs)}
    assert {name: dataset.info[name] for name in counts} == counts
    assert dataset.info["duplicate_entries"] == entries - len(pairs)


@pytest.fixture
def folder(tmp_path):
    """Slices whose order by name (0, 1000, 10000, 2000) is not their order by number."""
    generator = torch.Generator().manual_seed(0)
    for first in (0, 1000, 2000, 10000):
        playlists = []
        for pid in range(first, first + 5):
            drawn = torch.randint(30, (pid % 5 * 4,), generator=generator).tolist()
            playlists.append(
                playlist(
                    pid,
                    *(track(n, f"song {n} é", f"artist {n % 7}") for n in drawn),
                    name=f"p{pid}",
                )
            )
        write(
            tmp_path / f"mpd.slice.{first}-{first + 999}.json",
            playlists,
            indent=4 if first else None,
        )
    return tmp_path


def in_order(folder):
    return [folder / f"mpd.slice.{first}-{first + 999}.json" for first in (0, 1000, 2000, 10000)]


def test_reads_what_a_plain_loop_reads_in_numeric_order(folder):
    dataset = read_mpd(folder)
    assert_matches_naive(dataset, in_order(folder))
    assert dataset.interactions.user_ids.tolist()[::5] == [0, 1000, 2000, 10000]
    assert (dataset.info["slices"], dataset.info["empty_playlists"]) == (4, 4)
    first = next(iter(json.loads(in_order(folder)[0].read_text())["playlists"][1]["tracks"]))
    assert dataset.items["artist"][0] == first["artist_name"]
    assert dataset.items["artist_id"][0] == first["artist_uri"]
    assert dataset.items["album"][0] == first["album_name"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_order_is_the_first_place_of_each_track_in_its_playlist(folder, processes):
    plain, dataset = read_mpd(folder), read_mpd(folder, order=True, processes=processes)
    assert plain.interactions.order is None
    graph = dataset.interactions
    uris, pids = graph.item_ids.tolist(), graph.user_ids.tolist()
    found = {
        (pids[u], uris[i]): o
        for u, i, o in zip(*graph.edge_index.tolist(), graph.order.tolist(), strict=True)
    }
    wanted = {}
    for file in in_order(folder):
        for record in json.loads(file.read_text(encoding="utf-8"))["playlists"]:
            for place, entry in enumerate(record["tracks"]):
                wanted.setdefault((record["pid"], entry["track_uri"]), place)
    assert found == wanted
    assert max(wanted.values()) > 0
    torch.testing.assert_close(graph.edge_index, plain.interactions.edge_index)


def test_order_comes_through_a_file(folder, tmp_path):
    dataset = read_mpd(folder, order=True)
    loaded = type(dataset).load(dataset.save(tmp_path / "prepared"))
    assert loaded.interactions.fingerprint() == dataset.interactions.fingerprint()
    assert loaded.interactions.order.dtype == torch.int64


def test_slices_picks_positions_in_that_order(folder):
    dataset = read_mpd(folder, slices=(2, 4))
    assert_matches_naive(dataset, in_order(folder)[2:])
    assert dataset.info["slices"] == 2


def test_slices_out_of_range_name_how_many_there_are(folder):
    for slices in ((0, 5), (2, 2), (3, 1), (-1, 2), (4, 5)):
        with pytest.raises(ValueError, match=re.escape("stop <= 4")) as caught:
            read_mpd(folder, slices=slices)
        assert str(slices) in str(caught.value)


def test_several_files_go_by_number_then_in_natural_order(folder, tmp_path):
    extra = [write(tmp_path / f"mine{n}.json", [playlist(n)]) for n in (50010, 50009)]
    dataset = read_mpd([extra[0], in_order(folder)[3], extra[1], str(in_order(folder)[1])])
    assert dataset.interactions.user_ids.tolist()[::5] == [1000, 10000, 50009]
    assert dataset.interactions.user_ids.tolist()[-1] == 50010


def test_a_folder_of_slices_passes_over_other_json(folder):
    (folder / "challenge_set.json").write_text("not even JSON")
    assert read_mpd(folder).info["slices"] == 4


def test_a_folder_without_slice_names_reads_all_json(tmp_path):
    files = [
        write(tmp_path / name, [playlist(int(name[1:-5]), minimal("a"))])
        for name in ("x2.json", "x10.json")
    ]
    (tmp_path / "._x2.json").write_bytes(b"\x00\x05")
    assert_matches_naive(read_mpd(tmp_path), files)


def test_one_file_and_minimal_records(tmp_path):
    records = [
        {"name": "one", "pid": 7, "tracks": [minimal("b"), {"track_uri": "a"}, minimal("b")]},
        {"pid": 3, "tracks": []},
        {"name": None, "pid": 0, "tracks": [{"track_uri": "c", "track_name": None}]},
    ]
    dataset = read_mpd(str(write(tmp_path / "any.json", records)))
    assert dataset.interactions.user_ids.tolist() == [7, 3, 0]
    assert dataset.users["name"] == ["one", "", ""]
    assert dataset.items == {
        "name": ["B", "", ""],
        "artist": [""] * 3,
        "artist_id": [""] * 3,
        "album": [""] * 3,
        "album_id": [""] * 3,
    }
    assert dataset.interactions.edge_index.tolist() == [[0, 0, 2], [0, 1, 2]]
    counts = {
        "playlists": 3,
        "entries": 4,
        "edges": 3,
        "duplicate_entries": 1,
        "empty_playlists": 1,
    }
    assert {name: dataset.info[name] for name in counts} == counts


def test_indented_and_compact_give_equal_results(tmp_path):
    records = [playlist(0, track(1), track(2)), playlist(1, track(2, name='"quoted" ü'))]
    one, other = (
        read_mpd(write(tmp_path / f"{indent}.json", records, indent)) for indent in (4, None)
    )
    assert one.interactions.fingerprint() == other.interactions.fingerprint()
    assert (one.users, one.items) == (other.users, other.items)


def test_only_empty_playlists(tmp_path):
    dataset = read_mpd(write(tmp_path / "a.json", [playlist(0), playlist(1)]))
    assert (dataset.interactions.num_users, dataset.interactions.num_items) == (2, 0)


def test_round_trip_of_a_read_dataset(folder, tmp_path):
    dataset = read_mpd(folder)
    loaded = type(dataset).load(dataset.save(tmp_path / "prepared"))
    assert loaded.interactions.fingerprint() == dataset.interactions.fingerprint()
    assert (loaded.users, loaded.items, loaded.info) == (dataset.users, dataset.items, dataset.info)


def test_a_missing_path_is_named(tmp_path):
    for source in (tmp_path / "nowhere", [tmp_path / "nowhere"]):
        with pytest.raises(FileNotFoundError, match=r"nowhere: no such file"):
            read_mpd(source)


def test_a_folder_without_json_is_named_and_the_inner_folder_suggested(tmp_path):
    with pytest.raises(
        ValueError, match=f"{re.escape(str(tmp_path))}: the folder holds no JSON file"
    ):
        read_mpd(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "mpd.slice.0-999.json", [])
    with pytest.raises(ValueError, match=r"data/mpd\.slice\.0-999\.json: no playlist"):
        read_mpd(tmp_path)  # the folder "data" inside is read


def test_no_file_and_a_folder_among_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file given"):
        read_mpd([])
    with pytest.raises(ValueError, match="is a folder"):
        read_mpd([tmp_path])


BAD_FILES = {
    '{"playlists": [{"pid": 1, "tra': "not valid JSON",
    "": "not valid JSON",
    "\x00\x01": "not valid JSON",
    "[1, 2]": "a list",
    '{"songs": [], "x": 1}': "['songs', 'x']",
    '{"playlists": {"pid": 1}}': "an object",
    '{"playlists": []}': "no playlist",
}


def test_a_file_that_is_no_slice_is_refused_by_name(tmp_path):
    path = tmp_path / "mpd.slice.0-999.json"
    for text, says in BAD_FILES.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(says)) as caught:
            read_mpd(tmp_path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


GOOD = {"pid": 41, "tracks": [minimal("a")]}
URI = {"track_uri": "z"}
# Field, or None for a playlist that is no object; value as the error shows it; playlist.
BAD_PLAYLISTS = [
    (None, "a string", "text"),
    (None, "null", None),
    (None, "a list", [1]),
    ("pid", "missing", {"tracks": []}),
    ("pid", "-4", {"pid": -4, "tracks": []}),
    ("pid", "True", {"pid": True, "tracks": []}),
    ("pid", "'17'", {"pid": "17", "tracks": []}),
    ("pid", "17.0", {"pid": 17.0, "tracks": []}),
    ("pid", "None", {"pid": None, "tracks": []}),
    ("pid", f"{2**63}", {"pid": 2**63, "tracks": []}),
    ("pid", "[1]", {"pid": [1], "tracks": []}),
    ("tracks", "missing", {"pid": 5}),
    ("tracks", "None", {"pid": 5, "tracks": None}),
    ("tracks", "{}", {"pid": 5, "tracks": {}}),
    ("tracks", "''", {"pid": 5, "tracks": ""}),
    ("name", "2016", {"pid": 5, "name": 2016, "tracks": []}),
    ("track 0", "a string", {"pid": 5, "tracks": ["spotify:track:x"]}),
    ("track 1", "null", {"pid": 5, "tracks": [minimal("a"), None]}),
    ("track_uri", "missing", {"pid": 5, "tracks": [{"track_name": "x"}]}),
    ("track_uri", "''", {"pid": 5, "tracks": [{"track_uri": ""}]}),
    ("track_uri", "9", {"pid": 5, "tracks": [minimal("b"), {"track_uri": 9}]}),
    ("track_uri", "None", {"pid": 5, "tracks": [{"track_uri": None}]}),
    ("track_uri", "[]", {"pid": 5, "tracks": [{"track_uri": []}]}),
    ("track_name", "3", {"pid": 5, "tracks": [URI | {"track_name": 3}]}),
    ("artist_name", "[]", {"pid": 5, "tracks": [URI | {"artist_name": []}]}),
]


def test_a_bad_playlist_is_refused_by_file_place_field_and_value(tmp_path):
    for indent in (None, 4):
        for field, value, record in BAD_PLAYLISTS:
            records = [GOOD, record, {"pid": 42, "tracks": [minimal("a")]}]
            path = write(tmp_path / "mpd.slice.0-999.json", records, indent)
            with pytest.raises(ValueError, match=re.escape(f" is {value},")) as caught:
                read_mpd(path)
            says = str(caught.value)
            assert says.startswith(f"{path}: playlist 1") and "\n" not in says
            assert field is None or field in says
            assert field in (None, "pid") or "(pid 5)" in says


def test_a_pid_twice_in_one_file_names_both_playlists(tmp_path):
    path = write(tmp_path / "a.json", [playlist(1), playlist(2), playlist(1)])
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: playlist 2: pid 1 is also that of playlist 0")
    ):
        read_mpd(path)


def test_a_pid_in_two_files_names_both_files(tmp_path):
    first = write(tmp_path / "mpd.slice.0-1.json", [playlist(0), playlist(1)])
    second = write(tmp_path / "mpd.slice.2-3.json", [playlist(2), playlist(1)])
    with pytest.raises(
        ValueError, match=re.escape(f"{second}: playlist 1: pid 1 is also that of {first}")
    ):
        read_mpd(tmp_path)


def test_progress_is_silent_where_stderr_is_no_terminal(folder, capfd):
    read_mpd(folder, progress=True)
    assert capfd.readouterr() == ("", "")


def a_slice_with_bad_playlists(path, first=0):
    """Write good and bad playlists in turn, each bad one wrong in its own way, and return the good
    pids."""
    bad = [
        "no object",
        {"name": "no pid", "tracks": []},
        playlist(-1),
        {"pid": first + 1},
        playlist(first + 2) | {"name": 5},
        playlist(first + 3, track("x"), "no track"),
        playlist(first + 4, track("y"), {"track_name": "no uri"}),
        playlist(first + 5, track("z", artist=7)),
        playlist(2**63),
        playlist(first + 100, track("again")),
    ]
    records, good = [], []
    for number, wrong in enumerate(bad):
        good.append(first + 100 + number)
        records += [playlist(good[-1], track(f"good{number}"), track("common")), wrong]
    return write(path, records, indent=4 if first else None), good


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_playlists_are_left_out_counted_and_listed(tmp_path, processes):
    one, first = a_slice_with_bad_playlists(tmp_path / "mpd.slice.0-999.json")
    two, second = a_slice_with_bad_playlists(tmp_path / "mpd.slice.1000-1999.json", first=1000)
    with pytest.raises(ValueError, match=r"mpd\.slice\.0-999\.json: playlist 1 is a string"):
        read_mpd(tmp_path, processes=processes)
    dataset = read_mpd(tmp_path, processes=processes, skip_bad=True, order=True)
    graph = dataset.interactions
    assert graph.user_ids.tolist() == first + second
    assert [len(graph.items_of(user)) for user in range(graph.num_users)] == [2] * 20
    assert dataset.info["skipped_playlists"] == 20 and len(dataset.info["skipped"]) == 20
    for problem in dataset.info["skipped"]:
        assert str(tmp_path) in problem
    texts = " ".join(dataset.info["skipped"])
    for words in (
        "is a string",
        '"pid" is missing',
        '"tracks" is missing',
        "track 1 is a string",
        "expected a string",
        "pid 100 ",
        "pid 1100 ",
    ):
        assert words in texts
    left_out = {f"spotify:track:{name}" for name in ("x", "y", "again")}
    assert left_out.isdisjoint(graph.item_ids.tolist()) and int(graph.item_degrees.min()) > 0
    assert len(dataset.items["name"]) == graph.num_items
    good = read_mpd([one, two], processes=1, skip_bad=True)
    assert good.items == dataset.items and good.interactions.keys.tolist() == graph.keys.tolist()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_left_out_does_not_depend_on_who_read_what_before(tmp_path, processes):
    write(tmp_path / "mpd.slice.0-999.json", [playlist(0, track("a"))])
    write(
        tmp_path / "mpd.slice.1000-1999.json",
        [playlist(1000, track("a", name=5)), playlist(1001, track("b"))],
    )
    write(tmp_path / "mpd.slice.2000-2999.json", [playlist(2000, track("a"))])
    dataset = read_mpd(tmp_path, processes=processes, skip_bad=True)
    assert dataset.interactions.user_ids.tolist() == [0, 1001, 2000]
    assert (
        dataset.info["skipped_playlists"] == 1 and '"track_name" is 5' in dataset.info["skipped"][0]
    )


def test_nothing_but_bad_playlists_is_an_error_that_says_so(tmp_path):
    write(tmp_path / "mpd.slice.0-999.json", [playlist(-1)])
    with pytest.raises(ValueError, match=r"no playlist in 1 file.*1 were left out, such as .*pid"):
        read_mpd(tmp_path, skip_bad=True)


def test_nothing_is_left_out_of_good_slices(folder):
    plain, lenient = read_mpd(folder), read_mpd(folder, skip_bad=True)
    assert lenient.info["skipped_playlists"] == 0 and lenient.info["skipped"] == []
    assert lenient.interactions.fingerprint() == plain.interactions.fingerprint()


def test_a_file_that_is_no_slice_is_an_error_in_any_case(tmp_path):
    (tmp_path / "mpd.slice.0-999.json").write_text(
        '{"playlists": [{"pid": 0, "tracks": []}, {"pid"'
    )
    with pytest.raises(ValueError, match="not valid JSON"):
        read_mpd(tmp_path, skip_bad=True)


def test_the_command_tells_what_it_left_out(tmp_path, capsys):
    a_slice_with_bad_playlists(tmp_path / "mpd.slice.0-999.json")
    a_slice_with_bad_playlists(tmp_path / "mpd.slice.1000-1999.json", first=1000)
    a_slice_with_bad_playlists(tmp_path / "mpd.slice.2000-2999.json", first=2000)
    out = tmp_path / "prepared"
    assert cli.main(["prepare", str(tmp_path), str(out)]) == 2
    assert not out.exists()
    capsys.readouterr()
    assert cli.main(["prepare", str(tmp_path), str(out), "--skip-bad-playlists"]) == 0
    said = capsys.readouterr()
    assert said.err.count(": skipped: ") == 20 and "and 10 more, listed in" in said.err
    assert re.search(r"skipped playlists\s+30", said.out)
    assert len(json.loads((out / "dataset.json").read_text())["info"]["skipped"]) == 30


def test_a_playlist_of_a_million_tracks_is_read(tmp_path):
    record = playlist(0, *({"track_uri": f"t{number % 1000}"} for number in range(1_000_000)))
    dataset = read_mpd(write(tmp_path / "mpd.slice.0-999.json", [record]), processes=1, order=True)
    assert dataset.info["entries"] == 1_000_000 and dataset.interactions.num_edges == 1000
    assert dataset.interactions.order.tolist() == list(range(1000))
