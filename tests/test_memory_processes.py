"""Memory that is kept, seen from outside of a process: its end, its resident memory, its page faults, its environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tools import NIGHTLY

from fastopt import _memory

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def run(code: str, **environment: str) -> str:
    """What a program prints, in a process of its own that has to end well and quietly."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_environment_sets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(
        "import fastopt as fo; print(fo.show_config()['memory']['cache_limit'])", FASTOPT_CACHE_LIMIT="12345"
    ) == ("12345\n")
    for wrong in "1G", "-1", "1.5", str(1 << 60):
        monkeypatch.setenv("FASTOPT_CACHE_LIMIT", wrong)
        with pytest.raises(ValueError, match=r"FASTOPT_CACHE_LIMIT: must be a number of bytes .*, got "):
            _memory.obey_environment()


def test_arrays_may_outlive_everything() -> None:
    """The interpreter ends quietly while arrays are alive that were made here, in modules, cycles and threads."""
    code = """
import atexit, builtins, sys, threading, numpy as np, fastopt as fo
from fastopt import functional as F
def make():
    return F.layer_norm(np.ones((512, 1024), np.float32), 1024)[0]
y = builtins.y = np.y = make()
cycle = [make()]
cycle.append(cycle)
fo.reuse_memory()
late = np.zeros(1 << 20)
class Last:
    def __init__(self): self.array = make()
    def __del__(self): self.array = None
last = sys.last = Last()
atexit.register(lambda: setattr(builtins, "z", np.ones(1 << 20)))
reuse = fo.reuse_memory
def forever():
    reuse()
    while True: np.ones(1 << 18)
threading.Thread(target=forever, daemon=True).start()
for name in [name for name in sys.modules if name.startswith("fastopt")]: del sys.modules[name]
del fo, F
print(y.sum())
"""
    for _ in range(3):
        assert run(code) == "0.0\n"


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer needs all addresses")
def test_the_cache_is_given_up_where_memory_is_short() -> None:
    code = """
import re, resource, numpy as np, fastopt as fo
from pathlib import Path
def used(): return int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
with fo.reuse_memory():
    held = [np.ones(40 << 20, np.uint8) for _ in range(6)]
    held.clear()
    kept = fo.show_config()["memory"]["cached"]
    resource.setrlimit(resource.RLIMIT_AS, (used() + (50 << 20),) * 2)
    x = np.ones(200 << 20, np.uint8)
    after = fo.show_config()["memory"]["cached"]
    try:
        np.ones(2000 << 20, np.uint8)
    except MemoryError:
        print(kept >> 20, after, x.min())
"""
    kept, after, ones = run(code).split()
    assert int(kept) >= 240 and (after, ones) == ("0", "1")


RESIDENT = """
import re, sys, time
from pathlib import Path
import numpy as np, fastopt as fo
from fastopt import functional as F
def resident(): return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
LIMIT = 64 << 20
fo.set_cache_limit(LIMIT)
rng, x = np.random.default_rng(0), np.ones(8 << 20, np.float32)
F.dropout(x, 0.5, seed=0, step=0)
fo.release_memory()
before, most, alive, end, count = resident(), 0, [], time.monotonic() + float(sys.argv[1]), 0
with fo.reuse_memory():
    while time.monotonic() < end or count < 3000:
        size = int(2 ** rng.uniform(10, 23))
        alive.append(F.dropout(x[:size], 0.5, seed=0, step=0) if count % 2 else np.ones(size, np.float32))
        while len(alive) > 8: alive.pop(int(rng.integers(len(alive))))
        count += 1
        if count % 50 == 0: most = max(most, resident() - before)
alive.clear()
fo.release_memory()
print(count, most >> 20, (resident() - before) >> 20)
"""


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer keeps freed memory")
def test_resident_memory_is_bounded() -> None:
    """Over changing sizes: nine arrays in blocks of at most 36 MiB, what the cache keeps, and a little more."""
    seconds = 600 if NIGHTLY else 3
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(seconds)],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 300,
    )
    count, most, after = map(int, done.stdout.split())
    assert count >= 3000
    assert most < 9 * 36 + 64 + 30
    assert after < 16


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer's malloc")
@pytest.mark.parametrize("mib", [24, 40])
def test_malloc_keeps_large_blocks(mib: int) -> None:
    """Three blocks are page faults once, and the system gets their memory when that ends."""
    code = (
        f"SIZE = {mib} << 20"
        + """
import resource, re, fastopt as fo
from pathlib import Path
def resident(): return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
def faults():
    blocks = [b"x" * SIZE for _ in range(3)]
    blocks.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [b"x" * SIZE for _ in range(3)]
        blocks.clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
with fo.reuse_memory(arrays=False) as reuse:
    print(reuse.malloc, faults())
    kept = resident()
print(kept - resident() >> 20)
SIZE = 40 << 20
print(faults())
"""
    )
    before, malloc, after, given_back, mapped = run(code).split()
    if malloc == "False":
        pytest.skip("malloc is not glibc's")
    assert int(after) * 20 < int(before)
    assert int(given_back) >= 60
    assert int(mapped) > 20 * int(after)  # blocks of this size come from the system again
