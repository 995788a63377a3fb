"""Saves arrays and metadata in one safetensors file, which is replaced whole or not at all.

The metadata of the safetensors file has one key, ``fastopt``, whose value is JSON: the format's version, a checksum of the
whole file, and the caller's metadata.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib import import_module
from io import BufferedRandom, BufferedReader
from typing import Any, NoReturn, TypeAlias

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array: TypeAlias = NDArray[Any]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

FORMAT = 1
DTYPES = {"bfloat16", "float16", "float32", "float64", "bool"} | {
    f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)
}
CHUNK = 1 << 20  # bytes read at a time for the checksum
MAX_HEADER = 100_000_000  # safetensors' own limit
BLANK = b"0" * 32  # stands in the checksum's place while it is computed
# The bytes before the checksum.  A tensor's name cannot contain them: its quotes would be escaped.
MARK = b'"__metadata__":{"fastopt":"{\\"format\\":%d,\\"checksum\\":\\"' % FORMAT

_open_tensors: Callable[..., Any] = safetensors.safe_open  # has no types


def save(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Writes a file.  A process that is killed meanwhile leaves the old file or the new one.

    A symbolic link stays, and the file that it points to is replaced.  A new file gets the mode of the umask; a replaced one
    keeps its mode.  ``save`` also removes the temporary files of an earlier ``save`` to the same path that was killed.

    Args:
        path: Where.
        arrays: Arrays of floats (bfloat16 too), integers or bools, in any layout; they are only read.
        metadata: A dict of values that JSON has.  Numbers come back exactly, infinities and NaN too, and tuples as lists.

    Raises:
        TypeError: ``path`` is no path, an array has another dtype, or metadata contains a value that JSON does not have.
        ValueError: ``path`` is not a file, or an array is called ``__metadata__``.
        OSError: The file cannot be written.  The old file is there then; or the new one, if only its folder could not be
            written to the disk, and the error says so.
    """
    given = _path("save", path)
    text = json.dumps(
        {"format": FORMAT, "checksum": BLANK.decode(), "metadata": _checked("metadata", metadata)},
        separators=(",", ":"),
    )
    tensors = {_name(name): _dense(name, array) for name, array in arrays.items()}
    target = os.path.realpath(given)  # the target of a link
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            what = f"the folder {given!r}" if stat.S_ISDIR(mode) else f"{given!r}, which is something else"
            raise ValueError(f"save: path must be a file, got {what}")
        if given.endswith(os.sep):
            raise ValueError(f"save: path must be a file, got {given!r}, which ends as a folder does")
        with _workplace(target) as place:
            written = os.path.join(place, "tensors")
            _write(written, tensors, text)
            # safetensors makes its files private; the directory beside the target has the mode of the umask.
            _finish(written, stat.S_IMODE(mode) if mode is not None else os.stat(place).st_mode & 0o666)
            os.replace(written, target)
    except OSError as error:
        _explain("save", "cannot be written", path, target, error)
    try:
        _sync(os.path.dirname(target))
    except OSError as error:
        _explain(
            "save",
            "has been written, but its folder cannot be, and a power failure may bring the old file back",
            path,
            target,
            error,
        )
    _sweep(target)


def _write(path: str, tensors: dict[str, Array], text: str) -> None:
    try:
        save_file(tensors, path, {"fastopt": text})
    except safetensors.SafetensorError as error:  # a full disk is one example
        number = re.search(r" \(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(str(error)) from None
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def _finish(path: str, mode: int) -> None:
    """Writes the checksum, sets the mode, and flushes the whole file to the disk."""
    with open(path, "r+b") as file:
        where, _, checksum = _checksum(file)
        file.seek(where)
        file.write(checksum)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def load(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Reads a file that :func:`save` wrote, all of it or nothing.

    Args:
        path: Where.

    Returns:
        The arrays, new and writable, in the order of their names, and the metadata.

    Raises:
        ValueError: The file is truncated, damaged, not one of fastopt's, or one of a later version.
        OSError: It cannot be read; ``FileNotFoundError`` if there is none.
    """
    given = _path("load", path)
    try:
        mode = os.stat(given).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for a writer
            raise ValueError("is not a file")
        while True:
            with open(given, "rb") as file:
                metadata = _read_metadata(file)
                with _open_tensors(given, framework="np") as tensors:
                    # Otherwise another process has replaced the file meanwhile, and it is read again.
                    if os.path.samestat(os.stat(given), os.fstat(file.fileno())):
                        return {name: _tensor(tensors, name) for name in sorted(tensors.keys())}, metadata
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"load: path {given if given.isprintable() else ascii(given)} {error}") from None
    except OSError as error:
        _explain("load", "cannot be read", path, os.path.realpath(given), error)


# Paths


def _path(function: str, path: Any) -> str:
    """A path as a string."""
    try:
        given = os.fsdecode(path)
    except TypeError:
        raise TypeError(f"{function}: path must be a string, bytes or os.PathLike, got {type(path).__name__}") from None
    if not given:
        raise ValueError(f"{function}: path must not be empty")
    if "\0" in given:
        raise ValueError(f"{function}: path must not have a null character in it, got {given!r}")
    return given


def _explain(function: str, what: str, path: Path, target: str, error: OSError) -> NoReturn:
    """Raises an error of the same class that names the caller's path and the fault."""
    text = f"{function}: path {what}: {_reason(function, target, error)}"
    if error.errno is None:
        raise type(error)(f"{text}: {os.fsdecode(path)!r}") from None
    raise OSError(error.errno, text, os.fspath(path)) from None


def _reason(function: str, target: str, error: OSError) -> str:
    if error.errno is None:
        return str(error)
    said, folder = os.strerror(error.errno), os.path.dirname(target)
    if error.errno == errno.ENOENT:
        if not os.path.exists(folder):
            return f"there is no folder {folder!r}"
        return "there is no such file" if function == "load" else said
    if error.errno == errno.ENOTDIR:
        there = target
        while not os.path.exists(there):
            there = os.path.dirname(there)
        return f"{there!r} is not a folder"
    if error.errno == errno.ENAMETOOLONG:
        longest = max(map(len, os.fsencode(target).split(os.fsencode(os.sep))))
        return f"{said}: {len(os.fsencode(target))} bytes, and {longest} in one name"
    if function == "save" and error.errno in (errno.EBUSY, errno.EXDEV):
        return f"{said}: a file that is mounted by itself cannot be replaced; mount its folder instead"
    if function == "save" and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{said} in the folder {folder!r}"
    return said


# The contents


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"save: names of arrays must be strings, got {name!r}")
    if name == "__metadata__":
        raise ValueError("save: arrays has the name '__metadata__', which safetensors uses itself")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"save: names of arrays must be text that UTF-8 can hold, got {name!a}") from None
    return name


def _dense(name: str, array: Any) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
        what = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"type {type(array).__name__}"
        raise TypeError(f"save: arrays[{name!r}] has {what}, expected an array of floats, integers or bools")
    return np.asarray(array, order="C")


def _checked(label: str, value: Any) -> Any:
    """The value, if JSON has it exactly; ``json.dumps`` would write keys that are numbers as strings."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"save: {label} must have strings as keys, got {key!r}")
        return {key: _checked(f"{label}[{key!r}]", one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_checked(f"{label}[{i}]", one) for i, one in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"save: {label} must be a number, string, bool, list, dict or None, got {value!r}")


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _checksum(file: BufferedReader | BufferedRandom) -> tuple[int, bytes, bytes]:
    """The position of an open file's checksum, the checksum there, and the right one: the BLAKE2b of the file with zeros in its place."""
    header = _read_header(file)
    where = header.find(MARK) + len(MARK)
    if where < len(MARK):
        raise ValueError("is damaged: it has no checksum")
    digest = blake2b(header[:where] + BLANK + header[where + len(BLANK) :], digest_size=len(BLANK) // 2)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return where, header[where : where + len(BLANK)], digest.hexdigest().encode()


def _read_header(file: BufferedReader | BufferedRandom) -> bytes:
    """The length of the header, and the header, which is JSON."""
    file.seek(0)
    length = file.read(8)
    if not length:
        raise ValueError("is empty")
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise ValueError("is damaged, or not a safetensors file")
    header = file.read(size)
    if len(length) < 8 or len(header) < size:
        raise ValueError("is truncated, or not a safetensors file")
    return length + header


def _read_metadata(file: BufferedReader) -> dict[str, Any]:
    """The metadata that the caller of ``save`` gave, from a file whose checksum is right."""
    try:
        ours = json.loads(_read_header(file)[8:].decode())["__metadata__"]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is damaged, or not a safetensors file") from None
    except (KeyError, TypeError):
        raise ValueError("is not a file of fastopt's: it has no metadata") from None
    try:
        ours = json.loads(ours["fastopt"])
        version = ours["format"]
    except (KeyError, TypeError, json.JSONDecodeError, RecursionError):
        raise ValueError("is not a file of fastopt's: it has no metadata of that name") from None
    if version != FORMAT:
        raise ValueError(f"has format {version!r}, this version of fastopt reads {FORMAT}: a later one wrote it")
    _, found, expected = _checksum(file)
    if found != expected:
        raise ValueError("is truncated or damaged: its checksum is wrong")
    metadata: dict[str, Any] = ours["metadata"]
    return metadata


def _tensor(tensors: Any, name: str) -> Array:
    if tensors.get_slice(name).get_dtype() == "BF16":
        import_module("ml_dtypes")  # registers bfloat16 with NumPy
    array: Array = tensors.get_tensor(name)
    return array


# Folders


@contextmanager
def _workplace(target: str) -> Iterator[str]:
    """A directory beside the target that this process keeps locked while it saves, and then removes.

    safetensors writes to a temporary file with a name of its own.  In a directory, the next ``save`` finds it after a kill.
    """
    directory, name = os.path.split(target)
    begin = 0
    while True:
        place = os.path.join(directory, f"{_beginnings(name)[begin]}{secrets.token_hex(8)}.tmp")
        lock = -1
        try:
            try:
                os.mkdir(place)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG or begin:
                    raise
                begin = 1
                continue
            with suppress(FileNotFoundError):  # another process has swept it
                lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
                with suppress(OSError):  # some file systems have no locks; then no process sweeps
                    fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.isdir(place):
                yield place
                return
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if lock >= 0:
                os.close(lock)


def _beginnings(name: str) -> tuple[str, str]:
    """The beginning of the names of a file's temporary directories: the file's name, or a digest of it where they would get too long."""
    return f".{name}.", f".{blake2b(os.fsencode(name), digest_size=16).hexdigest()}."


def _sweep(target: str) -> None:
    """Removes the temporary directories of processes that were killed: those without a lock."""
    directory, name = os.path.split(target)
    workplace = re.compile(rf"({'|'.join(map(re.escape, _beginnings(name)))})[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for entry in filter(workplace.fullmatch, os.listdir(directory)):
            place = os.path.join(directory, entry)
            with suppress(OSError), _opened(place) as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)


def _sync(directory: str) -> None:
    """Flushes a folder to the disk, unless it may not be read or its file system cannot flush folders."""
    try:
        with _opened(directory) as opened:
            os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)
