"""The libraries of kernels and the extension module that loads them."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastopt
from fastopt import _core, _cpu

bindings = importlib.import_module("fastopt._bindings")

TWO_COPIES = """
import importlib.util, sys
import numpy as np
import fastopt as one
spec = importlib.util.spec_from_file_location("other", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
two = sys.modules["other"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two)
kernels = one._core.kernels, two._core.kernels
assert kernels[0].__file__ != kernels[1].__file__
kernels[0].set_cache_limit(12345)
assert kernels[1].cache_limit() != 12345
results = []
for package in one, two:
    package.set_num_threads(2)
    p = np.ones((300, 1000), np.float32)
    opt = package.optim.AdamW([p], lr=0.1)
    for step in range(3):
        opt.step([p - step], clip_norm=1.0)
    results.append(p)
assert np.array_equal(*results) and results[0][0, 0] != 1
"""

# The bindings make a list of 256 MiB, and the kernel, which sorts it, needs another one.
SHORT_OF_MEMORY = """
import re, resource, numpy as np
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from fastopt._core import kernels
indices = np.tile(np.arange(100, dtype=np.int8)[::-1], 167_773)
values = np.broadcast_to(np.float32(1), indices.shape)
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
try:
    kernels.coalesce("f", indices, values)
except MemoryError:
    pass
else:
    raise AssertionError("there was enough memory")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert np.array_equal(kernels.coalesce("f", indices, values)[1], np.full(100, 167_773))
"""


def test_each_instruction_set_is_loaded_once() -> None:
    for isa in _core.available_isas():
        kernels = _core.load(isa)
        assert kernels is _core.load(isa)
        assert Path(str(kernels.__file__)).parent == Path(fastopt.__file__).parent
        assert kernels.__name__ in str(kernels.Plan)
    assert _core.load(fastopt.isa()) is _core.kernels


def test_plans_take_steps_with_the_kernels_that_they_were_made_with() -> None:
    plans = [_core.load(isa).Plan("f", []) for isa in _core.available_isas()]
    assert len({type(plan) for plan in plans}) == len(plans)
    with pytest.raises(TypeError, match="No constructor"):
        bindings.Plan("f", [])


def test_a_library_of_another_build_is_an_import_error(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="belongs to another build of the package; install fastopt again"):
        bindings.load(os.fsencode(str(_cpu.__file__)), "other")  # exports no table
    damaged = tmp_path / "\N{SNOWMAN}.so"
    damaged.write_bytes(b"no library")
    for path in (damaged, tmp_path / "missing.so"):
        with pytest.raises(ImportError, match=f"^fastopt: .*{path.name}"):
            bindings.load(os.fsencode(path), "other")


def test_a_library_gives_its_table_to_its_own_version_only() -> None:
    exported = ctypes.CDLL(str(_core.kernels.__file__)).fastopt_kernels
    exported.restype = ctypes.c_void_p
    exported.argtypes = [ctypes.c_uint64, ctypes.c_void_p]
    assert exported(1, None) is None


def test_two_copies_of_the_package_in_one_process(tmp_path: Path) -> None:
    package = Path(fastopt.__file__).parent
    copy = tmp_path / "other"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", TWO_COPIES, str(copy)], check=True)


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs all addresses")
def test_a_kernel_without_memory_is_a_memory_error() -> None:
    """std::bad_alloc of a library of kernels is caught in the extension module."""
    subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], check=True)


def test_from_a_zip_file_the_import_says_why_it_fails(tmp_path: Path) -> None:
    package = tmp_path / "here" / "fastopt"
    shutil.copytree(Path(fastopt.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", package.parent, "fastopt")
    for place, text in (
        (archive, f"Python loads none from a zip file, as {archive}/fastopt is in one"),
        (str(package.parent), f"there is no _cpu{EXTENSION_SUFFIXES[0]} in {package}"),
    ):
        command = [sys.executable, "-c", "import fastopt"]
        environment = {**os.environ, "PYTHONPATH": place}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stderr.splitlines()[-1].startswith(f"ImportError: fastopt has compiled modules: {text}; ")


@pytest.mark.parametrize("name", ["ü".encode(), b"\xfc"], ids=["utf-8", "latin-1"])
def test_paths_that_threadpoolctl_cannot_read(name: bytes, tmp_path: Path) -> None:
    """With the ASCII locale, or a name that is not UTF-8, no BLAS is found, and all else works."""
    folder = tmp_path / os.fsdecode(name)
    shutil.copytree(Path(fastopt.__file__).parent, folder / "fastopt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(fastopt.show_config()["openmp"]["path"], folder / "libgomp.so.1")  # which a wheel has in its own folder
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(folder)}
    ascii["LD_LIBRARY_PATH"] = str(folder)
    code = (
        "import numpy as np, fastopt as fo; config = fo.show_config(); str(config); fo.set_num_threads(1); fo.lend_threads()\n"
        "fo.optim.Adam([np.ones(3)]).step([np.ones(3)]); print(len(config['blas']), ascii(fo.__file__), ascii(config['openmp']['path']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **ascii}, capture_output=True, text=True, timeout=60, check=True)
    blas, package, runtime = done.stdout.split()
    assert blas == "0" and "udc" in package and "udc" in runtime


@pytest.mark.parametrize("name", ["ü".encode(), b"\xfc"], ids=["utf-8", "latin-1"])
def test_errors_name_paths_of_every_encoding(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    code = "import os, sys; from fastopt import _bindings; _bindings.load(os.fsencode(sys.argv[1]), 'none')"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False, timeout=60)
    assert b"ImportError: fastopt: " in done.stderr and b"cannot open shared object file" in done.stderr


def test_a_library_that_is_missing_is_not_the_processor_s_fault(tmp_path: Path) -> None:
    package = tmp_path / "fastopt"
    shutil.copytree(Path(fastopt.__file__).parent, package, ignore=shutil.ignore_patterns("_kernels_*", "__pycache__"))
    for variables, text in (
        ({}, "fastopt has no library of kernels"),
        ({"FASTOPT_ISA": _core.isa()}, "this build does not have"),
    ):
        environment = {**os.environ, "FASTOPT_ISA": "", "PYTHONPATH": str(tmp_path)} | variables
        command = [sys.executable, "-c", "import fastopt"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert text in done.stderr
