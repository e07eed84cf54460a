"""Tensors, metadata and strings come back from a file as they were, or it is refused by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lightgcn.core import tensor_file
from lightgcn.core.process_group import ProcessGroup, ProcessLostError
from lightgcn.core.tensor_file import (
    load_shared,
    load_tensors,
    pack_strings,
    save_shared,
    save_tensors,
    unpack_strings,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    save_tensors(path, "thing", {"a": torch.arange(10), "b": torch.ones(2, 3)}, {"epoch": 3})
    return path


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


@pytest.mark.slow
def test_the_same_content_is_the_same_bytes_in_every_process(tmp_path):
    code = """
import sys, torch
from lightgcn.core.tensor_file import save_tensors
tensors = {name: torch.arange(size) for name, size in (("b", 3), ("a", 5), ("c", 0))}
save_tensors(sys.argv[1], "thing", tensors, {"z": 1, "a": [1, 2], "m": {"x": None}})
"""
    files = [tmp_path / str(number) for number in range(4)]
    for number, file in enumerate(files):
        environment = os.environ | {"PYTHONHASHSEED": str(number)}
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, env=environment)
    assert len({file.read_bytes() for file in files}) == 1


def test_wrong_kind(file):
    with pytest.raises(ValueError, match=re.escape(f"{file}: holds a thing")):
        load_tensors(file, "dataset")


@pytest.mark.parametrize(("step", "age"), [(1, "newer"), (-1, "older")])
def test_another_version(file, monkeypatch, step, age):
    monkeypatch.setattr(tensor_file, "VERSION", tensor_file.VERSION + step)
    save_tensors(file, "thing", {})
    assert load_tensors(file, "thing") == ({}, {})
    monkeypatch.undo()
    message = f"{file}: format version {tensor_file.VERSION + step} is {age}"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tensors(file, "thing")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "a"))):
        load_tensors(tmp_path / "a", "thing")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        load_tensors(tmp_path, "thing")


def assert_refused(path):
    with pytest.raises(ValueError, match=re.escape(str(path))):
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


def test_tensors_that_cannot_be_written_leave_the_old_file(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_tensors(file, "thing", {"a": torch.zeros(1)})
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


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


def test_what_json_cannot_hold_is_refused():
    for values in (["\ud83c"], [2**64], [object()]):
        with pytest.raises(ValueError):
            pack_strings(values)


def test_bytes_that_are_no_array():
    for content in (b'{"a": 1}', b'["a', b""):
        with pytest.raises(ValueError):
            unpack_strings(torch.tensor(list(content), dtype=torch.uint8))


def test_the_header_says_what_the_file_is(file):
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = orjson.loads(file.read_bytes()[8 : 8 + length])["__metadata__"]
    stamp = orjson.loads(header["lightgcn"])
    assert (stamp["kind"], stamp["version"]) == ("thing", tensor_file.VERSION) and list(header) == [
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


class OneOfTwo(ProcessGroup):
    """One of two processes, which knows the columns of both; a table is known by its dtype."""

    size = 2

    def __init__(self, tables, rank=0):
        self.tables, self.rank = {table.dtype: table for table in tables}, rank

    def gather_row_blocks(self, part, width):
        if self.rank == 0:
            yield from self.tables[part.dtype].split(3)


def test_sharded_tables_of_any_dtype_are_saved_with_the_bytes_of_whole_ones(tmp_path):
    dtypes = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    )
    whole = {f"table of {dtype}": torch.arange(35).view(7, 5).to(dtype) for dtype in dtypes}
    whole |= {f"vector of {dtype}": torch.arange(4).to(dtype) for dtype in dtypes}
    whole |= {"number": torch.tensor(2.5), "empty": torch.empty(0)}
    processes = OneOfTwo([table for table in whole.values() if table.ndim == 2])
    columns = processes.columns(5)
    own = {name: part[:, columns] if part.ndim == 2 else part for name, part in whole.items()}
    save_tensors(tmp_path / "whole", "thing", whole, {"epoch": 3})
    save_shared(tmp_path / "shared", "thing", own, {"epoch": 3}, processes, 5)
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "whole").read_bytes()
    for path in (tmp_path / "shared", tmp_path / "whole"):
        read, metadata = load_shared(path, "thing", processes, 5)
        assert metadata == {"epoch": 3} and read.keys() == own.keys()
        assert all(torch.equal(read[name], part) for name, part in own.items())


def test_a_sharded_file_that_cannot_be_written_is_an_error_in_every_process(tmp_path):
    (tmp_path / "folder").mkdir()
    table = torch.zeros(7, 4)
    for rank, error in ((0, OSError), (1, ProcessLostError)):
        processes = OneOfTwo([table], rank)
        with pytest.raises(error, match="folder"):
            own = {"a": table[:, processes.columns(4)]}
            save_shared(tmp_path / "folder", "thing", own, None, processes, 4)
