import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lightgcn import LightGCN
from lightgcn.core import storage as checkpoint
from lightgcn.core.storage import (
    load_tensors,
    pack_strings,
    read_json,
    save_tensors,
    unpack_strings,
    write_atomic,
    write_json,
)
from lightgcn.nn.model_io import load_model, save_model


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    save_tensors(path, "thing", {"a": torch.arange(10), "b": torch.ones(2, 3)}, {"epoch": 3})
    return path


# Whole or absent


def test_write_atomic_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in (b"old", b"new"):
        write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content))
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path, error, existing):
    path = tmp_path / "file.txt"
    if existing:
        path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        assert (
            temporary.parent.parent == path.parent
        )  # a rename across file systems would not be atomic
        if existing:
            assert path.read_bytes() == b"old"
        raise error("stop")

    with pytest.raises(error):
        write_atomic(path, write)
    assert os.listdir(tmp_path) == (["file.txt"] if existing else [])
    if existing:
        assert path.read_bytes() == b"old"


def test_a_failed_rename_leaves_no_temporary_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "folder", lambda temporary: temporary.write_bytes(b"new"))
    assert os.listdir(tmp_path) == ["folder"]


def test_tensors_that_cannot_be_written_leave_the_old_file(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_tensors(file, "thing", {"a": torch.zeros(1)})
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_mode_respects_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a", "thing", {"a": torch.zeros(1)})
        write_json(tmp_path / "b", {})
        assert os.umask(mask) == mask  # looking at it did not change it
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [mode, mode]


# JSON


def test_json_round_trip(tmp_path):
    value = {"name": "Ærø 🎧", "list": [1, 2.5, None, True], "array": np.arange(3)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value | {"array": [0, 1, 2]}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"nan"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: not valid JSON")):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


# Tensors

TENSORS = {
    **{
        str(dtype): torch.tensor([0, 1, 2, 3]).to(dtype)
        for dtype in (
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.bool,
        )
    },
    "no dimension": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "not contiguous": torch.arange(12.0).reshape(3, 4).T,
    "a view": torch.arange(12)[3:6],
    "expanded": torch.tensor([1.0]).expand(5),
    "with gradient": torch.ones(2, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    "Ünïcode 🎧": torch.zeros(1),
}


def test_tensors_round_trip(tmp_path):
    metadata = {"text": "日本", "nested": {"list": [1, None, 2.5]}, "array": np.arange(2)}
    save_tensors(tmp_path / "a", "thing", TENSORS, metadata)
    tensors, read = load_tensors(tmp_path / "a", "thing")
    assert read == metadata | {"array": [0, 1]}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert not tensors[name].requires_grad
        torch.testing.assert_close(tensors[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_tensors_that_share_storage_are_each_stored(tmp_path):
    base = torch.arange(6.0)
    save_tensors(tmp_path / "a", "thing", {"whole": base, "part": base[2:4], "again": base})
    tensors, _ = load_tensors(tmp_path / "a", "thing")
    assert tensors["part"].tolist() == [2, 3]
    assert tensors["again"].tolist() == tensors["whole"].tolist() == base.tolist()
    tensors["whole"].zero_()
    assert tensors["again"].tolist() == base.tolist()


def test_no_tensors_and_no_metadata(tmp_path):
    save_tensors(tmp_path / "a", "thing", {})
    assert load_tensors(tmp_path / "a", "thing") == ({}, {})


def test_loaded_tensors_outlive_the_file(file):
    tensors, _ = load_tensors(file, "thing")
    save_tensors(file, "thing", {"a": torch.zeros(10, dtype=torch.int64)})
    assert tensors["a"].tolist() == list(range(10))


def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path):
    code = """
import sys, torch
from lightgcn.core.storage import save_tensors
tensors = {name: torch.arange(size) for name, size in (("b", 3), ("a", 5), ("c", 0))}
save_tensors(sys.argv[1], "thing", tensors, {"z": 1, "a": [1, 2], "m": {"x": None}})
"""
    files = [tmp_path / str(number) for number in range(4)]
    for number, file in enumerate(files):
        environment = os.environ | {"PYTHONHASHSEED": str(number)}
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, env=environment)
    assert len({file.read_bytes() for file in files}) == 1


def test_what_a_killed_process_left_is_removed(file):
    old, new, other = (
        file.parent / name for name in (f".{file.name}.x.tmp", f".{file.name}.y.tmp", ".else.x.tmp")
    )
    for path in (old, new, other):
        path.mkdir()
        (path / "half").write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1, 1))
    save_tensors(file, "thing", {})
    assert not old.exists() and new.exists() and other.exists()


def test_a_killed_save_leaves_nothing_for_long(file, monkeypatch):
    """What safetensors itself leaves half written goes with the rest."""
    code = """
import sys, torch
from lightgcn.core.storage import save_tensors
tensor = torch.zeros(30_000_000)
print(1, flush=True)
while True:
    save_tensors(sys.argv[1], "thing", {"a": tensor})
"""
    monkeypatch.setattr(checkpoint, "_JUST_NOW", 0.0)
    for delay in (0.02, 0.05, 0.09):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        tensors, _ = load_tensors(file, "thing")
        assert not tensors or tensors["a"].shape in ((30_000_000,), (10,))
        save_tensors(file, "thing", {})
        assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_full_disk_is_named_by_what_is_added_to(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        checkpoint.append(tmp_path / "history.jsonl", b"x")
    assert raised.value.filename == str(tmp_path / "history.jsonl")


def test_what_another_process_writes_is_left_alone(file):
    path = file.parent / f".{file.name}.x.tmp"
    path.mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path / checkpoint._HELD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "1\n"
        os.utime(path, (1, 1))
        save_tensors(file, "thing", {})
        assert path.exists()
        process.communicate("\n")
    os.utime(path, (1, 1))
    save_tensors(file, "thing", {})
    assert not path.exists()


def test_wrong_kind(file):
    with pytest.raises(ValueError, match=re.escape(f"{file}: holds a thing, expected a dataset")):
        load_tensors(file, "dataset")


@pytest.mark.parametrize(("step", "age"), [(1, "newer"), (-1, "older")])
def test_another_version(file, monkeypatch, step, age):
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + step)
    save_tensors(file, "thing", {})
    assert load_tensors(file, "thing") == ({}, {})
    monkeypatch.undo()
    message = f"{file}: format version {checkpoint.VERSION + step} is {age} than this program's ({checkpoint.VERSION})"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tensors(file, "thing")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'a'}: no such file")):
        load_tensors(tmp_path / "a", "thing")
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path}: is a folder, a thing file is needed here")
    ):
        load_tensors(tmp_path, "thing")


def assert_refused(path):
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable lightgcn file")):
        load_tensors(path, "thing")


def test_a_file_cut_off_anywhere_is_refused(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert_refused(file)
    file.write_bytes(whole + b"\0")
    assert_refused(file)


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)
    assert_refused(path)


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_of_the_header_is_no_other_error(tmp_path_factory, at, value):
    path = tmp_path_factory.getbasetemp() / "changed"
    save_tensors(path, "thing", {"a": torch.arange(3)}, {"epoch": 3})
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content)
    try:
        load_tensors(path, "thing")
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"format": "pt"},
        {"lightgcn": "{}"},
        {"lightgcn": "[]"},
        {"lightgcn": "no JSON"},
        {"lightgcn": '{"kind": "thing", "version": 2}'},
        {"lightgcn": '{"kind": "thing", "version": 2, "metadata": []}'},
        {"lightgcn": '{"kind": "thing", "version": "two", "metadata": {}}'},
        {"lightgcn": '{"kind": "thing", "version": null, "metadata": {}}'},
    ],
)
def test_a_file_of_another_program_is_refused(tmp_path, header):
    save_file({"weight": torch.ones(2)}, tmp_path / "other", metadata=header)
    assert_refused(tmp_path / "other")


def test_a_pickle_is_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle")
    assert_refused(tmp_path / "pickle")


# Models


@pytest.mark.parametrize("alpha", [None, "learnable", [0.5, 0.25, 0.25]])
def test_model_round_trip(tmp_path, alpha):
    model = LightGCN(4, 5, 6, 2, alpha, seed=3)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded.embedding, model.embedding)
    assert type(loaded.alpha) is type(model.alpha)
    assert torch.equal(torch.as_tensor(loaded.alpha), torch.as_tensor(model.alpha))
    assert (loaded.num_users, loaded.num_items, loaded.embedding_dim, loaded.num_layers) == (
        4,
        5,
        6,
        2,
    )


@pytest.mark.parametrize(
    "metadata", [{}, {"num_users": 4, "num_items": 5, "embedding_dim": 7}, {"size": 3}]
)
def test_model_file_whose_shape_does_not_fit(tmp_path, metadata):
    path = tmp_path / "model"
    save_tensors(path, "model", LightGCN(4, 5, 6).state_dict(), metadata)
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: weights and stated shape do not fit (")
    ):
        load_model(path)


# Strings


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1))))
def test_strings_round_trip(values):
    packed = pack_strings(values)
    assert packed.dtype == torch.uint8
    assert packed.ndim == 1
    assert unpack_strings(packed) == values


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "ö"], dtype=object),
        np.array([1, 2]),
        np.array(["x", "yy"]),
        ("a", "b"),
        (n for n in "ab"),
        [],
    ],
)
def test_strings_from_other_sequences(values):
    expected = (
        values.tolist() if isinstance(values, np.ndarray) else ["a", "b"] if values != [] else []
    )
    assert unpack_strings(pack_strings(values)) == expected


def test_packed_strings_survive_a_file(tmp_path):
    names = ["Sigur Rós", "坂本龍一", "", "🎧\n\0", 'quo"te']
    save_tensors(tmp_path / "a", "thing", {"names": pack_strings(names)})
    assert unpack_strings(load_tensors(tmp_path / "a", "thing")[0]["names"]) == names


@pytest.mark.parametrize("values", [["\ud83c"], [2**64], [object()]])
def test_what_json_cannot_hold_is_refused(values):
    with pytest.raises(ValueError, match="cannot be stored"):
        pack_strings(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}', "expected a JSON array, found a dict"),
        (b'["a', "unexpected end"),
        (b"", "Input is a zero-length"),
    ],
)
def test_bytes_that_are_no_array(content, message):
    with pytest.raises(ValueError, match=message):
        unpack_strings(torch.tensor(list(content), dtype=torch.uint8))


def test_the_header_says_what_the_file_is(file):
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = orjson.loads(file.read_bytes()[8 : 8 + length])["__metadata__"]
    stamp = orjson.loads(header["lightgcn"])
    assert (stamp["kind"], stamp["version"]) == ("thing", checkpoint.VERSION) and list(header) == [
        "lightgcn"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_come_back_on_the_cpu(tmp_path):
    save_tensors(tmp_path / "a", "thing", {"a": torch.arange(3, device="cuda")})
    tensors, _ = load_tensors(tmp_path / "a", "thing")
    assert tensors["a"].device.type == "cpu"
    assert tensors["a"].tolist() == [0, 1, 2]


def test_tensors_that_share_memory_are_saved_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {
        "base": base,
        "again": base,
        "part": base[3:7],
        "strided": base.view(3, 4).T,
        "empty": base[:0],
    }
    save_tensors(tmp_path / "file", "test", tensors)
    found, _ = load_tensors(tmp_path / "file", "test")
    assert (
        all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        and len(found) == 5
    )
