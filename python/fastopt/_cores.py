"""The cores that this process may use: its affinity, OpenMP's places and the quotas of control groups."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from os.path import dirname, join


def quota(root: str | os.PathLike[str] = "/") -> float:
    """The number of cores whose time the control groups of this process give it: its own group and all outer ones."""
    least = math.inf
    try:
        memberships = _text(join(root, "proc/self/cgroup")).splitlines()
    except OSError:
        return least
    mounts = join(root, "sys/fs/cgroup")
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:  # version 2
            trees = [mounts, join(mounts, "unified")]
        elif "cpu" in controllers.split(","):
            trees = [join(mounts, controllers), join(mounts, "cpu")]
        else:
            continue
        # In a container the path may be the one outside, while the container's own group is mounted as the root: so all parts count.
        groups = [group := path.strip("/")]
        while group:
            groups.append(group := dirname(group))
        least = min([least, *(_quota_of(join(tree, group)) for tree in trees for group in groups)])
    return least


def _quota_of(group: str) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = _text(join(group, "cpu.max")).split()  # "max 100000" if there is no limit
        return math.inf if limit == "max" else int(limit) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        microseconds = int(_text(join(group, "cpu.cfs_quota_us")))  # -1 if there is no limit
        return microseconds / int(_text(join(group, "cpu.cfs_period_us"))) if microseconds > 0 else math.inf
    return math.inf


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def too_few_cores(count: int, places: list[int] | None) -> str:
    """The reason why ``count`` threads that wait for each other cannot all run at once here; empty where they can.

    ``places`` are OpenMP's, ``None`` where it has none or is not loaded yet.
    """
    if places is not None:
        if len(places) < count:
            return f"OpenMP's places (OMP_PLACES, OMP_PROC_BIND) have {len(places)} of the {count} cores that it needs"
    elif hasattr(os, "sched_getaffinity") and (cores := len(os.sched_getaffinity(0))) < count:
        return f"this thread may run on {cores} of the {count} cores that it needs"
    if (most := quota()) < count:
        return f"a control group gives this process the time of {most:g} of the {count} cores that it needs"
    return ""


@contextlib.contextmanager
def same_affinity() -> Iterator[None]:
    """Keeps the affinity of the calling thread.

    libgomp binds the thread that loads it to the first of its places, if it has any, and every thread that this one starts
    later inherits that.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        if os.sched_getaffinity(0) != before:
            os.sched_setaffinity(0, before)
