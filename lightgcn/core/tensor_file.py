"""Named tensors and JSON metadata in one safetensors file, never pickled.

The header names the file's kind and format version, so that a file of another kind is refused by
name. A long list of strings is stored as the UTF-8 bytes of a JSON array (`pack_strings`)."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from lightgcn.core.process_group import ProcessGroup, ProcessLostError
from lightgcn.core.storage import write_atomic

VERSION = 2
# Names of dtypes in safetensors, in the order in which it stores tensors.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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
        except SafetensorError as error:  # a full disk: the number is in the message alone
            raise OSError(_errno_of(error), str(error)) from error

    flat, header = _unshared(tensors), _stamp(kind, metadata)
    write_atomic(path, write)


def _stamp(kind: str, metadata: Mapping[str, Any] | None) -> dict[str, str]:
    stamp = {"kind": kind, "version": VERSION, "metadata": dict(metadata or {})}
    # One entry: safetensors writes several in random order, and the bytes would differ.
    return {"lightgcn": orjson.dumps(stamp, option=orjson.OPT_SERIALIZE_NUMPY).decode()}


def save_shared(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None,
    processes: ProcessGroup,
    width: int,
) -> None:
    """Write column-sharded tables to one file, with the same bytes as `save_tensors` of the whole
    tables.

    Collective: every process calls it. Process 0 gathers the rows in blocks and writes them.

    Args:
        path: the file to write.
        kind: as for `save_tensors`.
        tensors: (N, own columns) tables; tensors of other shapes are replicated, and those of
            process 0 are written.
        metadata: as for `save_tensors`; that of process 0 is written.
        processes: the process group.
        width: columns of all processes together.

    Raises:
        OSError: in process 0, if the file cannot be written.
        ProcessLostError: in the other processes, if process 0 could not write the file.
    """
    if processes.size == 1:
        save_tensors(path, kind, tensors, metadata)
        return
    processes.barrier()  # with its long timeout: one process may have come from work of its own
    order = list(_DTYPES)
    tensors = dict(sorted(tensors.items(), key=lambda pair: (order.index(pair[1].dtype), pair[0])))
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
        for _ in blocks:  # the others still send theirs if writing failed
            pass
        processes.broadcast([written])


def _blocks(tensors: Mapping[str, Tensor], processes: ProcessGroup, width: int) -> Iterator[Tensor]:
    for tensor in tensors.values():
        if tensor.ndim == 2:
            yield from processes.gather_row_blocks(tensor.detach(), width)
        else:
            yield tensor.detach().cpu()


def _write_blocks(
    path: Path,
    stamp: dict[str, str],
    tensors: Mapping[str, Tensor],
    width: int,
    blocks: Iterator[Tensor],
) -> None:
    """Write a safetensors file (header length, JSON header, numbers) from blocks of rows."""
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
            file.write(block.contiguous().view(-1).view(torch.uint8).numpy().data)


def _errno_of(error: Exception) -> int:
    code = re.search(r"os error (\d+)", str(error))
    return int(code[1]) if code else errno.EIO


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU; those that share memory, which safetensors refuses, are
    copied."""
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
    """Read a file of `save_shared` or `save_tensors`, of tables only this process's columns.

    Args:
        path: the file.
        kind: as for `load_tensors`.
        processes: the process group.
        width: columns of all processes together.

    Raises:
        FileNotFoundError: as `load_tensors` does.
        ValueError: as `load_tensors` does; with several processes, in each of them, if a table has
            another width.
    """
    return _load(path, kind, None if processes.size == 1 else processes.columns(width), width)


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors` and return its tensors, on the CPU, and its metadata.

    Args:
        path: the file.
        kind: the expected kind.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file, if it is a folder, corrupt, of another program, kind or format
            version.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name) / "weights.safetensors"
        >>> save_tensors(file, "weights", {"w": torch.tensor([1.0, 2.0])}, {"epoch": 3})
        >>> load_tensors(file, "weights")
        ({'w': tensor([1., 2.])}, {'epoch': 3})
    """
    return _load(path, kind)


def _load(
    path: str | Path, kind: str, columns: slice | None = None, width: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file; with ``columns``, only these of each table, which has ``width`` of them."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        inner = path / f"{kind}.safetensors"
        hint = f"; did you mean {inner}?" if inner.is_file() else ""
        raise ValueError(f"{path}: is a folder, a {kind} file is needed here{hint}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb"):
        pass  # an unreadable file raises its OSError here, and is not called corrupt below
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            tables = {
                name for name, shape in shapes.items() if columns is not None and len(shape) == 2
            }
            other = next((name for name in sorted(tables) if shapes[name][1] != width), None)
            # A copy of the columns: the slice is a view of the whole table.
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
            "corrupt, truncated, or was written by another program"
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
            f"{path}: not a readable lightgcn file (its metadata is not an object); it is corrupt"
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
        ValueError: if JSON cannot hold a value: an unpaired surrogate, an integer beyond 64 bits.

    Example:
        >>> unpack_strings(pack_strings(["Sigur Rós", "坂本龍一", 7]))
        ['Sigur Rós', '坂本龍一', 7]
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
