"""The files that optimizers are saved in: exact, whole or not there, and damage is noticed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from fastopt.optim import _files

METADATA = {
    "lr": 0.1,
    "betas": [0.9, 0.999],
    "name": 'quotes " and µ',
    "steps": 2**60,
    "flags": [True, None],
    "groups": {},
}
# The module alone, which imports faster than fastopt.
CHILD = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
path, size = sys.argv[2], int(sys.argv[3])
"""


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "w.exp_avg": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
        "w.step": np.array(7, np.int64),
        "b": np.linspace(-1, 1, 5),
    }


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype.newbyteorder("=")
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].astype(right[name].dtype.newbyteorder("=")).tobytes()
        for name in left
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    _files.save(path, arrays(), METADATA)
    return path


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_round_trip(saved: Path) -> None:
    loaded, metadata = _files.load(saved)
    assert same(loaded, arrays())
    assert metadata == METADATA
    assert list(loaded) == sorted(arrays())


@pytest.mark.parametrize("dtype", sorted(_files.DTYPES))
def test_every_dtype(path: Path, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    array = np.array([0, 1, 2, 100]).astype(dtype)
    _files.save(path, {"a": array}, {})
    assert same(_files.load(path)[0], {"a": array})


def test_every_layout(path: Path) -> None:
    numbers = np.arange(60.0).reshape(3, 4, 5)
    layouts = {
        "transposed": numbers.T,
        "strided": numbers[::2, 1:, ::-2],
        "Fortran": np.asfortranarray(numbers),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3)),
        "empty end": np.zeros((2, 0), np.float32),
        "broadcast": np.broadcast_to(np.float32(2), (3, 2)),
        "big endian": np.arange(3, dtype=">f8"),
        "unaligned": np.zeros(25, np.uint8)[1:].view(np.float64),
        "": np.ones(1),
        'µ"\\': np.ones(2),
    }
    _files.save(path, layouts, {})
    assert same(_files.load(path)[0], layouts)


def test_nothing(path: Path) -> None:
    _files.save(path, {}, {})
    assert _files.load(path) == ({}, {})


def test_loaded_arrays_are_the_callers(saved: Path) -> None:
    loaded, _ = _files.load(saved)
    for array in loaded.values():
        array[...] = 0
    assert same(_files.load(saved)[0], arrays())


@pytest.mark.parametrize(
    "value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan, 1e22]
)
def test_numbers_of_the_metadata_are_exact(path: Path, value: float) -> None:
    _files.save(path, {}, {"a": value, "b": [np.float64(value)]})
    _, metadata = _files.load(path)
    assert metadata["a"].hex() == metadata["b"][0].hex() == value.hex()


def test_tuples_come_back_as_lists(path: Path) -> None:
    _files.save(path, {}, {"betas": (0.9, (1,))})
    assert _files.load(path)[1] == {"betas": [0.9, [1]]}


def test_it_is_a_safetensors_file(saved: Path) -> None:
    assert same(safetensors.numpy.load_file(saved), arrays())
    with safetensors.safe_open(saved, framework="np") as file:
        assert json.loads(file.metadata()["fastopt"])["metadata"] == METADATA


def test_bfloat16_is_imported_where_needed(path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _files.save(path, {"a": np.ones(2, ml_dtypes.bfloat16)}, {})
    script = CHILD + "print(files.load(path)[0]['a'].dtype)"
    command = [sys.executable, "-c", script, _files.__file__, str(path), "0"]
    assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.split() == [b"bfloat16"]


@pytest.mark.parametrize(
    ("bad", "metadata", "message"),
    [
        (
            {"a": np.array([None])},
            {},
            r"^save: arrays\['a'\] has dtype object, expected an array of floats, integers or bools$",
        ),
        ({"a": np.array(["x"])}, {}, r"^save: arrays\['a'\] has dtype <U1, expected"),
        ({"a": [1.0]}, {}, r"^save: arrays\['a'\] has type list, expected"),
        ({1: np.ones(1)}, {}, r"^save: names of arrays must be strings, got 1$"),
        ({}, {"a": {1: 2}}, r"^save: metadata\['a'\] must have strings as keys, got 1$"),
        (
            {},
            {"a": [np.float32(1)]},
            r"^save: metadata\['a'\]\[0\] must be a number, string, bool, list, dict or None, got ",
        ),
        ({}, {"a": {1, 2}}, r"^save: metadata\['a'\] must be a number"),
    ],
)
def test_what_cannot_be_saved(saved: Path, bad: Any, metadata: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _files.save(saved, bad, metadata)
    assert os.listdir(saved.parent) == [saved.name]
    assert same(_files.load(saved)[0], arrays())


def test_a_reserved_name(path: Path) -> None:
    with pytest.raises(ValueError, match="'__metadata__', which safetensors uses itself"):
        _files.save(path, {"__metadata__": np.ones(1)}, {})


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file"):
        _files.save(tmp_path, arrays(), {})
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="must be a file"):
        _files.save(tmp_path / "fifo", arrays(), {})
    assert os.listdir(tmp_path) == ["fifo"]


def damaged(path: Path, content: bytes) -> str:
    """What is said of a file with such a content; any other error than ValueError fails the test."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^load: ") as error:
        _files.load(path)
    assert type(error.value) is ValueError
    assert str(path) in str(error.value)
    return str(error.value)


def test_truncated_files(saved: Path) -> None:
    content = saved.read_bytes()
    for size in range(len(content)):
        damaged(saved, content[:size])
    assert "is empty" in damaged(saved, b"")
    assert "is truncated" in damaged(saved, content[:50])
    assert "is truncated" in damaged(saved, content[:-1])


def test_something_appended(saved: Path) -> None:
    assert "damaged" in damaged(saved, saved.read_bytes() + b"\0")


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_flipped_bytes(saved: Path, flip: int) -> None:
    """Each byte of the file, its padding too."""
    content = saved.read_bytes()
    for place in range(len(content)):
        damaged(saved, content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])


def test_changed_space(path: Path) -> None:
    """The header ends with spaces, and would mean the same with others."""
    for extra in range(8):
        _files.save(path, arrays(), {"x": "x" * extra})
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        for place in range(end - 7, end):
            if content[place] == ord(" "):
                damaged(path, content[:place] + b"\t" + content[place + 1 :])


def test_foreign_files(path: Path) -> None:
    plain = safetensors.numpy.save(arrays())
    assert "not a file of fastopt's" in damaged(path, plain)
    assert "not a file of fastopt's" in damaged(path, safetensors.numpy.save(arrays(), {"format": "pt"}))
    for text in "", "7", "[]", '"text"', "{}", "{", "null", "[" * 100_000:
        assert "not a file of fastopt's" in damaged(path, safetensors.numpy.save(arrays(), {"fastopt": text}))
    assert "has no checksum" in damaged(path, safetensors.numpy.save(arrays(), {"fastopt": '{"format":1}'}))
    for content in (
        b"text",
        b"\0" * 100,
        b"\xff" * 100,
        os.urandom(1000),
        b"PK\3\4" + b"\0" * 200,
        b"\x93NUMPY" + b"\0" * 90,
    ):
        assert "not a safetensors file" in damaged(path, content)
    for header in b"[" * 100_000, b"7", b"[1]", b"\xff\xfe", b'{"__metadata__":[]}', b'{"__metadata__":{"fastopt":1}}':
        damaged(path, len(header).to_bytes(8, "little") + header)


def test_a_later_format(path: Path) -> None:
    later = safetensors.numpy.save(arrays(), {"fastopt": json.dumps({"format": 2, "other": "things"})})
    assert "has format 2, this version of fastopt reads 1" in damaged(path, later)


def test_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _files.load(path)
    with pytest.raises(FileNotFoundError):
        _files.save(path.parent / "nowhere" / "state", arrays(), {})


def test_the_umask_gives_the_mode(path: Path) -> None:
    for mask, mode in (0o022, 0o644), (0o027, 0o640), (0o077, 0o600):
        path.unlink(missing_ok=True)
        with umask(mask):
            _files.save(path, arrays(), {})
        assert path.stat().st_mode & 0o777 == mode


def test_a_replaced_file_keeps_its_mode(saved: Path) -> None:
    saved.chmod(0o664)
    with umask(0o077):
        _files.save(saved, arrays(), {})
    assert saved.stat().st_mode & 0o777 == 0o664


def test_links_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "state"
    link.symlink_to("there/state")
    for step in 1, 2:  # it points to nothing, then to a file
        _files.save(link, arrays(), {"step": step})
        assert link.is_symlink() and not target.is_symlink()
        assert _files.load(link)[1] == _files.load(target)[1] == {"step": step}
    assert sorted(os.listdir(tmp_path)) == ["link", "there"] and os.listdir(tmp_path / "there") == ["state"]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _files.save("state", arrays(), {})
    assert same(_files.load("state")[0], arrays())


def test_everything_is_on_disk_before_and_after_the_replacement(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        done.append(("fsync", os.fstat(fd).st_ino))
        fsync(fd)

    def replaced(source: str, target: str) -> None:
        done.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    _files.save(path, arrays(), {})
    file, directory = path.stat().st_ino, path.parent.stat().st_ino
    assert done == [("fsync", file), ("replace", file), ("fsync", directory)]


@pytest.mark.parametrize("at", ["save_file", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_stays_after_an_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(_files if at == "save_file" else os, at, fail)
    with pytest.raises(type(error)):
        _files.save(saved, {}, {})
    monkeypatch.undo()
    assert os.listdir(saved.parent) == [saved.name]
    assert same(_files.load(saved)[0], arrays())


def test_safetensors_errors_are_os_errors(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(_files, "save_file", fail)
    with pytest.raises(OSError, match="cannot be written: No space left"):
        _files.save(path, arrays(), {})


def test_leftovers_are_removed_and_others_are_not(path: Path) -> None:
    """What a killed process leaves behind; but not what a living one writes, or what belongs to another file."""
    dead = path.parent / f".{path.name}.{'0' * 16}.tmp"
    others = [path.parent / f".other.{'0' * 16}.tmp", path.parent / f".{path.name}.notes.tmp"]
    for place in dead, *others:
        place.mkdir()
        (place / "tensors").write_bytes(b"half")
    with _files._workplace(str(path)) as living:
        _files.save(path, arrays(), {})
        assert sorted(os.listdir(path.parent)) == sorted(
            [path.name, os.path.basename(living), *(other.name for other in others)]
        )
    assert same(_files.load(path)[0], arrays())


@pytest.mark.parametrize("when", ["mkdir", "open"])
def test_a_workplace_that_is_swept_at_once(path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Another process can take a directory for a leftover until it is locked."""
    call, seen = getattr(os, when), []

    def call_and_sweep(place: Any, *args: Any, **kwargs: Any) -> Any:
        result = call(place, *args, **kwargs)
        if str(place).endswith(".tmp") and place not in seen:
            seen.append(place)
            if len(seen) < 3:
                _files._sweep(str(path))
        return result

    monkeypatch.setattr(os, when, call_and_sweep)
    _files.save(path, arrays(), {})
    assert len(seen) == 3
    assert same(_files.load(path)[0], arrays())


def test_a_file_that_is_replaced_while_it_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata and arrays are of the same save."""
    opened = _files._open_tensors

    def save_and_open(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        _files.save(saved, {"new": np.ones(1)}, {"new": True})
        return opened(*args, **kwargs)

    monkeypatch.setattr(_files, "_open_tensors", save_and_open)
    loaded, metadata = _files.load(saved)
    assert list(loaded) == ["new"] and metadata == {"new": True}


def test_memory(path: Path) -> None:
    """Writing and reading take no more than a copy of the arrays."""
    script = CHILD + (
        "import resource\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "array = np.ones(size, np.uint8)\n"
        "before = peak()\n"
        "files.save(path, {'a': array}, {})\n"
        "print(peak() - before)\n"
        "files.load(path)\n"
        "print(peak() - before)\n"
    )
    size = 50_000_000
    command = [sys.executable, "-c", script, _files.__file__, str(path), str(size)]
    saving, both = map(int, subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.split())
    assert saving < 0.5 * size
    assert both < 2.5 * size  # the copy, and the pages of the file that it comes from


def test_kills(path: Path, rng: np.random.Generator) -> None:
    """Fifty processes that save one of two states after another, killed somewhere: one of the two is there, whole."""
    size = 100_000
    states = [({"a": np.full(size, k + 1.0), "b": np.full(3, k)}, {"state": k}) for k in range(2)]
    script = CHILD + (
        "states = [({'a': np.full(size, k + 1.0), 'b': np.full(3, k)}, {'state': k}) for k in range(2)]\n"
        "print(flush=True)\n"
        "while True:\n"
        "    for state in states:\n"
        "        files.save(path, *state)\n"
    )
    started = time.perf_counter()
    _files.save(path, *states[0])
    duration = min(time.perf_counter() - started, 0.05)  # disks differ
    seen, left = set(), 0
    for delay in rng.uniform(0, 5 * duration, 50):
        child = subprocess.Popen(
            [sys.executable, "-c", script, _files.__file__, str(path), str(size)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child, suppress(ProcessLookupError):
            assert child.stdout.readline() == b"\n"
            time.sleep(delay)
            child.kill()
        arrays, metadata = _files.load(path)
        expected, _ = states[metadata["state"]]
        assert same(arrays, expected)
        seen.add(metadata["state"])
        left += len(os.listdir(path.parent)) > 1
    assert seen == {0, 1}
    assert left > 0  # some were killed while they wrote
    _files.save(path, *states[1])
    assert os.listdir(path.parent) == [path.name]
