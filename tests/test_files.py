"""The files of saved optimizers: they are exact, are either whole or missing, and damage is noticed."""

from __future__ import annotations

import errno
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
from tools import Each

from fastopt import _files as files

METADATA = {
    "lr": 0.1,
    "betas": [0.9, 0.999],
    "name": 'quotes " and µ',
    "steps": 2**60,
    "flags": [True, None],
    "groups": {},
}
# The module alone, because it imports faster than fastopt.
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
    files.save(path, arrays(), METADATA)
    return path


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_round_trip(saved: Path) -> None:
    loaded, metadata = files.load(saved)
    assert same(loaded, arrays())
    assert metadata == METADATA
    assert list(loaded) == sorted(arrays())


@pytest.mark.parametrize("dtype", sorted(files.DTYPES))
def test_every_dtype(path: Path, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    array = np.array([0, 1, 2, 100]).astype(dtype)
    files.save(path, {"a": array}, {})
    assert same(files.load(path)[0], {"a": array})


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
    files.save(path, layouts, {})
    assert same(files.load(path)[0], layouts)


def test_nothing(path: Path) -> None:
    files.save(path, {}, {})
    assert files.load(path) == ({}, {})


def test_loaded_arrays_are_the_callers(saved: Path) -> None:
    loaded, _ = files.load(saved)
    for array in loaded.values():
        array[...] = 0
    assert same(files.load(saved)[0], arrays())


@pytest.mark.parametrize(
    "value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan, 1e22]
)
def test_numbers_of_the_metadata_are_exact(path: Path, value: float) -> None:
    files.save(path, {}, {"a": value, "b": [np.float64(value)]})
    _, metadata = files.load(path)
    assert metadata["a"].hex() == metadata["b"][0].hex() == value.hex()


def test_tuples_come_back_as_lists(path: Path) -> None:
    files.save(path, {}, {"betas": (0.9, (1,))})
    assert files.load(path)[1] == {"betas": [0.9, [1]]}


def test_it_is_a_safetensors_file(saved: Path) -> None:
    assert same(safetensors.numpy.load_file(saved), arrays())
    with safetensors.safe_open(saved, framework="np") as file:
        assert json.loads(file.metadata()["fastopt"])["metadata"] == METADATA


def test_bfloat16_is_imported_where_needed(path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    files.save(path, {"a": np.ones(2, ml_dtypes.bfloat16)}, {})
    script = CHILD + "print(files.load(path)[0]['a'].dtype)"
    command = [sys.executable, "-c", script, files.__file__, str(path), "0"]
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
        files.save(saved, bad, metadata)
    assert os.listdir(saved.parent) == [saved.name]
    assert same(files.load(saved)[0], arrays())


def test_a_reserved_name(path: Path) -> None:
    with pytest.raises(ValueError, match="'__metadata__', which safetensors uses itself"):
        files.save(path, {"__metadata__": np.ones(1)}, {})


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in tmp_path, tmp_path / "fifo", f"{tmp_path}/new/":
        with pytest.raises(ValueError, match=r"^save: path must be a file, got "):
            files.save(path, arrays(), {})
    with pytest.raises(ValueError, match=r"^load: path .*fifo is not a file$"):
        files.load(tmp_path / "fifo")  # instead of waiting for a writer
    assert os.listdir(tmp_path) == ["fifo"]


def damaged(path: Path, content: bytes) -> str:
    """The error text for a file with this content; any other error than ValueError fails the test."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^load: ") as error:
        files.load(path)
    assert type(error.value) is ValueError
    assert str(path) in str(error.value)
    return str(error.value)


def test_truncated_files(saved: Path, each: Each) -> None:
    content = saved.read_bytes()
    for size in each(range(len(content)), by_day=200):
        damaged(saved, content[:size])
    assert "is empty" in damaged(saved, b"")
    assert "is truncated" in damaged(saved, content[:50])
    assert "is truncated" in damaged(saved, content[:-1])


def test_something_appended(saved: Path) -> None:
    assert "damaged" in damaged(saved, saved.read_bytes() + b"\0")


def test_flipped_bytes(saved: Path, each: Each) -> None:
    """A change of any byte of the file is noticed, even in its padding."""
    content = saved.read_bytes()
    for place, flip in each(range(len(content)), [0x01, 0x20, 0x80, 0xFF], by_day=300):
        damaged(saved, content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])


def test_changed_space(path: Path) -> None:
    """The header ends with spaces, and other white space would mean the same."""
    for extra in range(8):
        files.save(path, arrays(), {"x": "x" * extra})
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


# Paths


@pytest.mark.parametrize("name", ["n" * 233, "n" * 234, "n" * 255, "µ" * 127])
def test_long_names(tmp_path: Path, name: str) -> None:
    """Names may be as long as the file system allows, though the temporary folder's name is longer; leftovers of killed
    processes are removed.
    """
    path = tmp_path / name
    for step in 1, 2:
        with files._workplace(str(path)) as place:
            left = place.replace(place[-20:-4], "0" * 16)
        os.mkdir(left)
        files.save(path, arrays(), {"step": step})
        assert files.load(path)[1] == {"step": step}
        assert os.listdir(tmp_path) == [name]


class PathOfBytes:
    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path, PathOfBytes])
def test_kinds_of_paths(path: Path, kind: Any) -> None:
    files.save(kind(str(path)), arrays(), {})
    assert same(files.load(kind(str(path)))[0], arrays())
    assert os.listdir(path.parent) == [path.name]


def test_names_that_are_no_text(path: Path) -> None:
    name = os.fsencode(path) + b"\xff\xfe"
    try:
        files.save(name, arrays(), {})
    except OSError:
        pytest.skip("the file system takes no such names")
    assert same(files.load(name)[0], arrays())


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (3, TypeError, "path must be a string, bytes or os.PathLike, got int"),
        (None, TypeError, "path must be a string, bytes or os.PathLike, got NoneType"),
        ("", ValueError, "path must not be empty"),
        (b"", ValueError, "path must not be empty"),
        ("a\0b", ValueError, "path must not have a null character in it, got 'a\\x00b'"),
    ],
)
def test_what_is_no_path(path: Any, error: type[Exception], text: str) -> None:
    for name, call in ("save", lambda: files.save(path, arrays(), {})), ("load", lambda: files.load(path)):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == f"{name}: {text}"


@pytest.mark.parametrize(
    ("there", "calls", "error", "reason"),
    [
        ("no/such/folder/f", "save load", FileNotFoundError, "there is no folder 'HERE/no/such/folder'"),
        ("f", "load", FileNotFoundError, "there is no such file"),
        ("dangling", "save load", FileNotFoundError, "there is no folder 'HERE/nowhere'"),
        ("chain", "load", FileNotFoundError, "there is no such file"),
        ("loop", "save load", OSError, os.strerror(errno.ELOOP)),
        ("file/f/g", "save load", NotADirectoryError, "'HERE/file' is not a folder"),
        ("file/", "load", NotADirectoryError, "'HERE/file' is not a folder"),
        ("folder", "load", IsADirectoryError, os.strerror(errno.EISDIR)),
        ("n" * 256, "save load", OSError, "256 in one name"),
        ("/".join(["n" * 200] * 25), "save load", OSError, os.strerror(errno.ENAMETOOLONG)),
    ],
)
def test_paths_that_cannot_be_used(tmp_path: Path, there: str, calls: str, error: type[OSError], reason: str) -> None:
    """The error has the given path and the reason, and not the name of a temporary file; no file is left behind."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"text")
    for link, end in ("dangling", "nowhere/f"), ("chain", "link"), ("link", "end"), ("loop", "loop"):
        (tmp_path / link).symlink_to(end)
    before = sorted(os.listdir(tmp_path))
    path = os.path.join(tmp_path, there)
    for name in calls.split():
        with pytest.raises(error) as raised:
            files.save(path, arrays(), {}) if name == "save" else files.load(path)
        assert raised.value.filename == path
        text = str(raised.value)
        assert f"{name}: path cannot be {'written' if name == 'save' else 'read'}: " in text
        assert reason.replace("HERE", os.path.realpath(tmp_path)) in text
        assert path in text and ".tmp" not in text
    assert sorted(os.listdir(tmp_path)) == before


def test_a_chain_of_links_stays(tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "third")
    for step in 1, 2:
        files.save(tmp_path / "first", arrays(), {"step": step})
        assert (tmp_path / "first").is_symlink() and (tmp_path / "second").is_symlink()
        assert files.load(tmp_path / "first")[1] == files.load(tmp_path / "third")[1] == {"step": step}


@pytest.mark.parametrize(
    ("call", "number", "reason"),
    [
        ("replace", errno.EBUSY, "a file that is mounted by itself cannot be replaced; mount its folder instead"),
        ("replace", errno.EXDEV, "a file that is mounted by itself cannot be replaced; mount its folder instead"),
        ("replace", errno.EPERM, "in the folder"),
        ("mkdir", errno.EACCES, "in the folder"),
        ("mkdir", errno.EROFS, "in the folder"),
        ("mkdir", errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ("fsync", errno.EIO, os.strerror(errno.EIO)),
        ("fchmod", errno.EPERM, "in the folder"),
    ],
)
def test_what_the_system_refuses(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    def fail(one: Any, *_: Any) -> None:
        raise OSError(number, os.strerror(number), f"{saved.parent}/.secret.tmp")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(
        type(OSError(number, "")), match=f"save: path cannot be written: {os.strerror(number)}"
    ) as raised:
        files.save(saved, {}, {})
    monkeypatch.undo()
    assert raised.value.errno == number and raised.value.filename == str(saved)
    assert reason in str(raised.value) and ".tmp" not in str(raised.value)
    assert os.listdir(saved.parent) == [saved.name]
    assert same(files.load(saved)[0], arrays())


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_folder_that_cannot_be_synced(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The file is saved; the error is raised unless the file system does not support syncing folders."""
    fsync = os.fsync

    def fail(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    if number == errno.EIO:
        with pytest.raises(OSError, match="save: path has been written, but its folder cannot be"):
            files.save(path, arrays(), {})
    else:
        files.save(path, arrays(), {})
    assert same(files.load(path)[0], arrays())
    assert os.listdir(path.parent) == [path.name]


MOUNTS = """
import errno, os, subprocess
def mount(*args): subprocess.run(["mount", *args], check=True)
def refused(number):
    before = {{name: open(name, "rb").read() for name in os.listdir(".") if os.path.isfile(name)}}
    try:
        files.save("target", {{"a": np.ones(size)}}, {{}})
    except OSError as error:
        assert error.errno == number and error.filename == "target" and ".tmp" not in str(error), error
        print(error)
    else:
        raise AssertionError("was saved")
    assert before == {{name: open(name, "rb").read() for name in os.listdir(".")}}
os.chdir(path)
{}
"""


@pytest.mark.parametrize(
    ("script", "size", "text"),
    [
        (
            "files.save('other', {}, {}); files.save('target', {}, {}); mount('--bind', 'other', 'target')\n"
            "refused(errno.EBUSY); files.load('target')",
            9,
            "mount its folder instead",
        ),
        (
            "mount('-t', 'tmpfs', '-o', 'size=64k', 'none', path); os.chdir(path); refused(errno.ENOSPC)",
            100_000,
            "No space",
        ),
        (
            "mount('-t', 'tmpfs', 'none', path); os.chdir(path); files.save('target', {}, {})\n"
            "mount('-o', 'remount,ro', path); refused(errno.EROFS)",
            9,
            "Read-only file system in the folder",
        ),
    ],
    ids=["a mounted file", "a full disk", "a read-only disk"],
)
def test_mounts(tmp_path: Path, script: str, size: int, text: str) -> None:
    """The mounts are in a namespace of their own, which ends with its process."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    command = [*alone, sys.executable, "-c", CHILD + MOUNTS.format(script), files.__file__, str(tmp_path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout


def test_a_file_larger_than_allowed(saved: Path) -> None:
    script = CHILD + (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try: files.save(path, {'a': np.ones(size)}, {})\n"
        "except OSError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, files.__file__, str(saved), "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "save: path cannot be written: File too large" in done.stdout, done
    assert os.listdir(saved.parent) == [saved.name]
    assert same(files.load(saved)[0], arrays())


def test_two_processes_save_to_one_path(path: Path) -> None:
    """Each of them, and each load meanwhile, always finds a whole file; no temporary file is left."""
    script = CHILD + (
        "for i in range(60):\n"
        "    files.save(path, {'a': np.full(1000, size)}, {'who': size})\n"
        "    arrays, metadata = files.load(path)\n"
        "    assert (arrays['a'] == metadata['who']).all()\n"
    )
    files.save(path, {"a": np.full(1000, 0)}, {"who": 0})
    children = [
        subprocess.Popen([sys.executable, "-c", script, files.__file__, str(path), str(i)], stderr=subprocess.PIPE)
        for i in (1, 2)
    ]
    while any(child.poll() is None for child in children):
        loaded, metadata = files.load(path)
        assert (loaded["a"] == metadata["who"]).all()
    for child in children:
        with child:
            assert child.stderr is not None
            assert child.stderr.read() == b"" and child.returncode == 0
    files.save(path, {}, {})
    assert os.listdir(path.parent) == [path.name]


def test_the_umask_gives_the_mode(path: Path) -> None:
    for mask, mode in (0o022, 0o644), (0o027, 0o640), (0o077, 0o600):
        path.unlink(missing_ok=True)
        with umask(mask):
            files.save(path, arrays(), {})
        assert path.stat().st_mode & 0o777 == mode


def test_a_replaced_file_keeps_its_mode(saved: Path) -> None:
    saved.chmod(0o664)
    with umask(0o077):
        files.save(saved, arrays(), {})
    assert saved.stat().st_mode & 0o777 == 0o664


def test_links_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "state"
    link.symlink_to("there/state")
    for step in 1, 2:  # the link points to nothing, then to a file
        files.save(link, arrays(), {"step": step})
        assert link.is_symlink() and not target.is_symlink()
        assert files.load(link)[1] == files.load(target)[1] == {"step": step}
    assert sorted(os.listdir(tmp_path)) == ["link", "there"] and os.listdir(tmp_path / "there") == ["state"]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.save("state", arrays(), {})
    assert same(files.load("state")[0], arrays())


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
    files.save(path, arrays(), {})
    file, directory = path.stat().st_ino, path.parent.stat().st_ino
    assert done == [("fsync", file), ("replace", file), ("fsync", directory)]


@pytest.mark.parametrize("at", ["save_file", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_stays_after_an_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(files if at == "save_file" else os, at, fail)
    with pytest.raises(type(error)):
        files.save(saved, {}, {})
    monkeypatch.undo()
    assert os.listdir(saved.parent) == [saved.name]
    assert same(files.load(saved)[0], arrays())


def test_safetensors_errors_are_os_errors(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="cannot be written: No space left"):
        files.save(path, arrays(), {})


def test_leftovers_are_removed_and_others_are_not(path: Path) -> None:
    """Leftovers of a killed process are removed, but not those that a living process writes or that belong to another
    file.
    """
    dead = path.parent / f".{path.name}.{'0' * 16}.tmp"
    others = [path.parent / f".other.{'0' * 16}.tmp", path.parent / f".{path.name}.notes.tmp"]
    for place in dead, *others:
        place.mkdir()
        (place / "tensors").write_bytes(b"half")
    with files._workplace(str(path)) as living:
        files.save(path, arrays(), {})
        assert sorted(os.listdir(path.parent)) == sorted(
            [path.name, os.path.basename(living), *(other.name for other in others)]
        )
    assert same(files.load(path)[0], arrays())


@pytest.mark.parametrize("when", ["mkdir", "open"])
def test_a_workplace_that_is_swept_at_once(path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Until a directory is locked, another process may take it for a leftover."""
    call, seen = getattr(os, when), []

    def call_and_sweep(place: Any, *args: Any, **kwargs: Any) -> Any:
        result = call(place, *args, **kwargs)
        if str(place).endswith(".tmp") and place not in seen:
            seen.append(place)
            if len(seen) < 3:
                files._sweep(str(path))
        return result

    monkeypatch.setattr(os, when, call_and_sweep)
    files.save(path, arrays(), {})
    assert len(seen) == 3
    assert same(files.load(path)[0], arrays())


def test_a_file_that_is_replaced_while_it_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata and arrays come from the same save."""
    opened = files._open_tensors

    def save_and_open(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        files.save(saved, {"new": np.ones(1)}, {"new": True})
        return opened(*args, **kwargs)

    monkeypatch.setattr(files, "_open_tensors", save_and_open)
    loaded, metadata = files.load(saved)
    assert list(loaded) == ["new"] and metadata == {"new": True}


def test_memory(path: Path) -> None:
    """Writing and reading need no more memory than one copy of the arrays."""
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
    command = [sys.executable, "-c", script, files.__file__, str(path), str(size)]
    saving, both = map(int, subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.split())
    assert saving < 0.5 * size
    assert both < 2.5 * size  # the copy, and the pages of its file


def test_kills(path: Path, each: Each, rng: np.random.Generator) -> None:
    """Processes that save two states in turn are killed at random times: one of the two states is there, whole."""
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
    files.save(path, *states[0])
    duration = min(time.perf_counter() - started, 0.05)  # the speed of disks differs
    seen, left = set(), 0
    for delay in each(rng.uniform(0, 5 * duration, 50), by_day=20):
        child = subprocess.Popen(
            [sys.executable, "-c", script, files.__file__, str(path), str(size)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child, suppress(ProcessLookupError):
            assert child.stdout.readline() == b"\n"
            time.sleep(delay)
            child.kill()
        arrays, metadata = files.load(path)
        expected, _ = states[metadata["state"]]
        assert same(arrays, expected)
        seen.add(metadata["state"])
        left += len(os.listdir(path.parent)) > 1
    assert seen == {0, 1}
    assert left > 0  # some processes were killed during a write
    files.save(path, *states[1])
    assert os.listdir(path.parent) == [path.name]
