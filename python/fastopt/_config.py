"""The configuration in force: versions, instruction set, threads, OpenMP, BLAS and how they share the cores."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

import numpy

from . import _core, _memory
from ._blas import Blas, all_blas, controllers
from ._core import kernels as _kernels
from ._threads import forbidden
from ._version import __version__


class Config(dict[str, Any]):
    """The result of :func:`show_config`: a dict that prints as a table."""

    def __str__(self) -> str:
        blas_row = "{name} {version} ({threading_layer}, {num_threads} threads), {path}\n{sharing}"
        rows = [
            ("fastopt", f"{self['fastopt']}, Python {self['python']}, NumPy {self['numpy']}"),
            ("instructions", f"{self['isa']['chosen']}, of {', '.join(self['isa']['available'])}"),
            ("threads", f"{self['num_threads']} of {self['cpus']} cores"),
            ("OpenMP", "{name} (OpenMP {version}), {path}".format(**self["openmp"])),
            *(("", "also loaded, unused: " + path) for path in self["openmp"]["others"]),
            *(("BLAS", blas_row.format(**blas)) for blas in self["blas"]),
            ("sharing", self["sharing"]),
            ("memory", _memory_text(**self["memory"])),
            *(("environment", f"{name}={value}") for name, value in self["environment"].items()),
        ]
        return "\n".join(f"{name:<14}{text}".replace("\n", "\n" + 14 * " ") for name, text in rows)

    __repr__ = __str__


_VARIABLES = re.compile(r"FASTOPT_\w+|OMP_\w+|GOMP_\w+|KMP_\w+|OPENBLAS_\w+|MKL_\w+")


def _sharing(blas: Blas) -> str:
    if blas.install and _kernels.borrowed(blas.install):
        return "runs on fastopt's threads"
    if reason := forbidden(blas):
        return f"keeps its own threads: {reason}"
    if _kernels.pending():
        return "will run on fastopt's threads from the first parallel kernel on"
    return "keeps its own threads, until lend_threads()"


def _summary(libraries: list[Blas]) -> str:
    products, helpers = _kernels.lending()
    if any(blas.install and _kernels.borrowed(blas.install) for blas in libraries):
        return f"one pool: fastopt's threads have run {products} BLAS calls ({helpers} helper threads made)"
    if _kernels.pending():
        return "one pool from the first parallel kernel on; FASTOPT_LEND_THREADS=0 or reclaim_threads() turns it off"
    spin = _core.spin_count()
    return "apart" + (f": idle OpenMP workers spin {spin} times, then sleep" if spin else "")


def _memory_text(cache_limit: int, cached: int, malloc: bool, arrays: bool) -> str:
    kept = f"up to {cache_limit / 2**20:g} MiB of freed blocks are kept, {cached / 2**20:.1f} MiB now"
    reused = [*(["malloc's"] if malloc else []), *(["NumPy's arrays"] if arrays else [])]
    return kept + (f"; reuse_memory: {' and '.join(reused)}" if reused else "")


def show_config() -> Config:
    """Reports the configuration in force: versions, instruction sets, threads, OpenMP, BLAS and how they share the cores.

    Returns:
        A dict that prints as a table.  ``blas`` is a list with one dict per library; ``blas[i]["lent"]`` says whether it
        runs on fastopt's threads now, ``blas[i]["sharing"]`` why or why not.

    Example:
        >>> import fastopt as fo
        >>> fo.show_config()["isa"]["chosen"] == fo.isa()
        True
    """
    openmp, found = _kernels.openmp(), controllers()
    path = os.path.realpath(openmp["path"])
    everyone = [controller.filepath for controller in found if controller.user_api == "openmp"]
    libraries = all_blas(found)
    return Config(
        fastopt=__version__,
        python=platform.python_version(),
        numpy=numpy.__version__,
        isa={"chosen": _core.isa(), "available": _core.available_isas()},
        num_threads=openmp["num_threads"],
        cpus=os.cpu_count(),
        openmp={
            "name": os.path.basename(path).split(".")[0],
            "version": {201511: "4.5", 201811: "5.0", 202011: "5.1"}.get(openmp["version"], str(openmp["version"])),
            "path": path,
            "spin_count": _core.spin_count(),
            "others": [other for other in everyone if os.path.realpath(other) != path],
        },
        blas=[
            {
                "name": blas.name,
                "version": blas.version,
                "path": blas.path,
                "threading_layer": blas.threading_layer,
                "num_threads": blas.num_threads,
                "lent": bool(blas.install and _kernels.borrowed(blas.install)),
                "sharing": _sharing(blas),
            }
            for blas in libraries
        ],
        sharing=_summary(libraries),
        memory=_memory.describe(),
        environment={name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)},
    )
