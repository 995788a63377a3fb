"""The cases of ``fastopt bench`` for pytest-benchmark: ``pytest bench --benchmark-enable``."""

from __future__ import annotations

from functools import lru_cache

import pytest

from fastopt.cli.bench import peers
from fastopt.cli.bench.case import Alternating, Calls, Case, Dead, Race
from fastopt.cli.bench.catalog import cases
from fastopt.cli.bench.data import Data
from fastopt.cli.bench.peers import Call

CANDIDATES = ("fastopt", "numpy", "torch", "onednn", "separate", "floor", "moved")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-sizes", action="store_true", help="all cases of `fastopt bench`, not only its --quick ones")
    parser.addoption("--dtype", default="float32", choices=("float32", "float64"))


def pytest_configure(config: pytest.Config) -> None:
    import fastopt as fo

    for peer in filter(None, (peers.torch(), peers.onednn())):
        peer.set_num_threads(fo.get_num_threads())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds: dict[str, type[Case]] = {"race": Race, "alternating": Alternating, "dead": Dead}
    config = metafunc.config
    data = Data(config.getoption("--dtype"))
    for name, kind in kinds.items():
        if name in metafunc.fixturenames:
            found = cases(data, quick=not config.getoption("--all-sizes"))
            wanted = [c for c in found if isinstance(c, kind) and c.group.startswith(metafunc.module.GROUPS)]
            metafunc.parametrize(name, wanted, ids=[case.name.replace("×", "x") for case in wanted], scope="module")
    if "candidate" in metafunc.fixturenames:
        metafunc.parametrize("candidate", CANDIDATES)


@lru_cache(maxsize=1)  # candidates of one case follow each other and share its arrays
def _calls(case: Race) -> Calls:
    return case.calls()


@pytest.fixture
def call(race: Race, candidate: str) -> Call:
    """The function that this candidate runs in the race."""
    found = _calls(race)
    for name, call in found.items():
        if name.partition("/")[0] == candidate:
            return call
    pytest.skip(f"{candidate} does not take part")
