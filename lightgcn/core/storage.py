"""Files that are whole or absent: tensors and JSON in one safetensors file, renamed into place,
never pickle.

Every file of the library that holds tensors has a `kind` and a `version` in its header, so that the
wrong file is refused by name. A long list of strings travels as the UTF-8 bytes of a JSON array
(`pack_strings`)."""

from __future__ import annotations

import errno
import glob
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from lightgcn.core.lock import hold
from lightgcn.core.process_group import ProcessGroup, ProcessLostError

VERSION = 2
# Seconds for which a temporary folder may not yet be held by its owner, by a lock on a file in it.
_JUST_NOW = 10.0
_HELD = ".held"
_umask_lock = threading.Lock()


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a path in a temporary folder beside ``path`` and rename the result to
    ``path``.

    Whatever interrupts it, ``path`` holds the old file or the new one, also after a loss of power.
    The folder is made where it is missing. What a process that was killed left of the same file is
    removed.

    Raises:
        OSError: naming ``path``, if it cannot be written; the old file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        _write(path, write)


def append(path: Path, data: bytes) -> None:
    """Add bytes to a file; an OSError names it."""
    with _named(path), path.open("ab") as file:
        file.write(data)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an OSError name a file, which else may name another one that is in the way of it, or
    none."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, where a file is to be written")
    _remove_leftovers(path)
    # A folder, since what writes may make files of its own beside the one that it is asked for.
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        with (folder / _HELD).open("wb") as held:
            hold(held.fileno())
            temporary = folder / path.name
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the folders in which processes that are gone were writing the same file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            # One that was made just now may not be held yet.
            if leftover.is_dir() and time.time() - leftover.stat().st_mtime > _JUST_NOW:
                with (leftover / _HELD).open("ab") as held:
                    gone = hold(held.fileno())
                if gone:
                    shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue


def _sync_folder(folder: Path) -> None:
    """Have the folder's new entry survive a loss of power, where the system can be asked to."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: naming the file, if it is no JSON.
        FileNotFoundError: if it is not there.
    """
    try:
        return orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file may be truncated") from error


def save_tensors(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write named tensors and JSON metadata to one safetensors file, atomically.

    Args:
        path: the file to write.
        kind: what the file holds ("recommender", "dataset", …); `load_tensors` asks for it.
        tensors: name to tensor, of any device and any dtype that safetensors knows (all but
            complex128).
        metadata: anything JSON can hold.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            save_file(flat, temporary, metadata=header)
        except SafetensorError as error:  # a full disk, in words alone
            raise OSError(_errno_of(error), str(error)) from error

    flat, header = _unshared(tensors), _stamp(kind, metadata)
    write_atomic(path, write)


def _stamp(kind: str, metadata: Mapping[str, Any] | None) -> dict[str, str]:
    stamp = {"kind": kind, "version": VERSION, "metadata": dict(metadata or {})}
    # One entry: of several the order, and so the bytes of the file, would be another each time.
    return {"lightgcn": orjson.dumps(stamp, option=orjson.OPT_SERIALIZE_NUMPY).decode()}


def save_shared(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None,
    processes: ProcessGroup,
    width: int,
) -> None:
    """Write what `save_tensors` would write of whole tables, of which each process holds some
    columns.

    Process 0 writes, some rows at a time; all have to call it, and all raise its error.

    Args:
        path: the file to write.
        kind: as for `save_tensors`.
        tensors: (N, own columns) tables, and whole tensors of other shapes, of which those of
            process 0 count.
        metadata: as for `save_tensors`; that of process 0 counts.
        processes: the processes.
        width: columns of all processes together.

    Raises:
        OSError: if the file cannot be written; in the other processes a `ProcessLostError`.
    """
    if processes.size == 1:
        save_tensors(path, kind, tensors, metadata)
        return
    processes.barrier()  # for one that had work of its own
    # Widest first, as safetensors does, so that every number lies where its width divides.
    tensors = dict(sorted(tensors.items(), key=lambda entry: (-entry[1].element_size(), entry[0])))
    blocks = _blocks(tensors, processes, width)
    if processes.rank != 0:
        for _ in blocks:
            pass
        if not processes.broadcast([0.0])[0]:
            raise ProcessLostError(f"{path}: process 0 could not write it")
        return
    written = 0.0
    try:
        write_atomic(
            path,
            lambda temporary: _write_blocks(
                temporary, _stamp(kind, metadata), tensors, width, blocks
            ),
        )
        written = 1.0
    finally:
        for _ in blocks:  # what the others still have to give, where writing has failed
            pass
        processes.broadcast([written])


def _blocks(tensors: Mapping[str, Tensor], processes: ProcessGroup, width: int) -> Iterator[Tensor]:
    for tensor in tensors.values():
        yield from (
            processes.gather_row_blocks(tensor.detach(), width)
            if tensor.ndim == 2
            else (tensor.detach().cpu(),)
        )


_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.float16: "F16"}


def _write_blocks(
    path: Path,
    stamp: dict[str, str],
    tensors: Mapping[str, Tensor],
    width: int,
    blocks: Iterator[Tensor],
) -> None:
    """Write a safetensors file (its length, a JSON header, the numbers) whose numbers come some
    rows at a time."""
    header: dict[str, Any] = {"__metadata__": stamp}
    end = 0
    for name, tensor in tensors.items():
        shape = [len(tensor), width] if tensor.ndim == 2 else list(tensor.shape)
        begin, end = end, end + math.prod(shape) * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(block.contiguous().numpy().data)


def _errno_of(error: Exception) -> int:
    code = re.search(r"os error (\d+)", str(error))
    return int(code[1]) if code else errno.EIO


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, copied only where two share memory, which safetensors
    refuses."""
    flat: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        storage = part.untyped_storage()
        whole = storage.nbytes() == part.numel() * part.element_size()
        flat[name] = part if whole and storage.data_ptr() not in taken else part.clone()
        taken.add(storage.data_ptr())
    return flat


def load_shared(
    path: str | Path, kind: str, processes: ProcessGroup, width: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_shared` or `save_tensors` wrote, of tables this process's columns alone.

    Args:
        path: the file.
        kind: as for `load_tensors`.
        processes: the processes.
        width: columns of all processes together.

    Raises:
        FileNotFoundError: as `load_tensors` does.
        ValueError: as `load_tensors` does; of several processes, in each, if a table has another
            width.
    """
    return _load(path, kind, None if processes.size == 1 else processes.columns(width), width)


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: (tensors on the CPU, metadata).

    Args:
        path: the file.
        kind: what it has to hold.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder or corrupt, is not one of this library's, or holds another
            kind or version.
    """
    return _load(path, kind)


def _load(
    path: str | Path, kind: str, columns: slice | None = None, width: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file; with ``columns``, of its tables these alone, of ``width``."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        inner = path / f"{kind}.safetensors"
        hint = f"; did you mean {inner}?" if inner.is_file() else ""
        raise ValueError(f"{path}: is a folder, a {kind} file is needed here{hint}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb"):
        pass  # A file that may not be read says so here, and is not called corrupt below.
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            tables = {
                name for name, shape in shapes.items() if columns is not None and len(shape) == 2
            }
            other = next((name for name in sorted(tables) if shapes[name][1] != width), None)
            # A copy of columns: what comes is a view of the whole table in the file.
            tensors = {
                name: file.get_slice(name)[:, columns].contiguous()
                if name in tables
                else file.get_tensor(name)
                for name in (shapes if other is None else ())
            }
        stamp = orjson.loads(header["lightgcn"])
        found, version, metadata = stamp["kind"], int(stamp["version"]), stamp.get("metadata")
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable lightgcn file ({type(error).__name__}: {error}); it is "
            "corrupt, truncated, "
            "or was written by another program"
        ) from error
    if found != kind:
        raise ValueError(f"{path}: holds a {found}, expected a {kind}")
    if version != VERSION:
        age = "newer" if version > VERSION else "older"
        raise ValueError(
            f"{path}: format version {version} is {age} than this program's ({VERSION})"
        )
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path}: not a readable lightgcn file (its metadata is no object); it is corrupt"
        )
    if other is not None:
        raise ValueError(
            f"{path}: holds {other} of shape {shapes[other]}, the model is of width {width}"
        )
    return tensors, metadata


def pack_strings(values: Any) -> Tensor:
    """Return a sequence of strings or integers as a (bytes,) uint8 tensor: the UTF-8 of a JSON
    array.

    Raises:
        ValueError: for what UTF-8 or JSON cannot hold: half a surrogate pair, an integer beyond 64
            bits.
    """
    try:
        data = orjson.dumps(values.tolist() if isinstance(values, np.ndarray) else list(values))
    except orjson.JSONEncodeError as error:
        raise ValueError(f"cannot be stored: {error}") from error
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def unpack_strings(packed: Tensor) -> list[Any]:
    """Return the list that `pack_strings` packed.

    Raises:
        ValueError: if the bytes are not a JSON array.
    """
    values = orjson.loads(packed.numpy().tobytes())
    if not isinstance(values, list):
        raise ValueError(f"expected a JSON array, found a {type(values).__name__}")
    return values


def _umask() -> int:
    with _umask_lock:  # which can only be read by setting it
        current = os.umask(0)
        os.umask(current)
    return current
