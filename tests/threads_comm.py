"""A communicator whose ranks are threads of this process, with mpi4py's buffer interface."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class Request:
    """An operation that is over when all ranks have started it, and that may be made to look slow."""

    def __init__(self, world: World, key: Any, finish: Callable[[], None]) -> None:
        self._world, self._key, self._finish, self._over = world, key, finish, False
        self.tests = 0

    def Test(self) -> bool:
        if not self._over and self._world.complete(self._key):
            if self.tests < self._world.delay:
                self.tests += 1
                return False
            self._finish()
            self._over = True
        return self._over

    def Wait(self) -> None:
        if self._over:
            return
        self._world.wait(self._key)
        self._finish()
        self._over = True


class World:
    """What the ranks share."""

    def __init__(self, size: int, delay: int = 0) -> None:
        self.size, self.delay = size, delay  # how often Test says no first
        self.posted: dict[Any, dict[int, Any]] = {}
        self.condition = threading.Condition()
        self.log: list[tuple[int, str]] = []
        self.failed = False

    def post(self, key: Any, rank: int, given: Any) -> None:
        with self.condition:
            self.posted.setdefault(key, {})[rank] = given
            self.condition.notify_all()

    def complete(self, key: Any) -> bool:
        with self.condition:
            return len(self.posted[key]) == self.size

    def wait(self, key: Any) -> None:
        with self.condition:
            if not self.condition.wait_for(lambda: self.failed or len(self.posted.get(key, ())) == self.size, 60):
                raise TimeoutError(f"{key}: only ranks {sorted(self.posted.get(key, ()))} have come")
            if self.failed:
                raise ConnectionAbortedError("another rank has failed")


def _split(buffer: Any) -> tuple[Any, list[int], list[int]]:
    array, (counts, begins) = buffer
    return array.reshape(-1), list(counts), list(begins)


class Comm:
    """One rank's end."""

    def __init__(self, world: World, rank: int, name: str = "") -> None:
        self._world, self._rank, self._name, self._calls, self._dups = world, rank, name, 0, 0

    def Get_rank(self) -> int:
        return self._rank

    def Get_size(self) -> int:
        return self._world.size

    def Dup(self) -> Comm:
        self._dups += 1
        return Comm(self._world, self._rank, f"{self._name}/{self._dups}")

    def _start(self, kind: str, given: Any, finish: Callable[[dict[int, Any]], None]) -> Request:
        self._calls += 1
        key = self._name, self._calls
        self._world.log.append((self._rank, kind))
        self._world.post(key, self._rank, (kind, given))

        def end() -> None:
            every = self._world.posted[key]
            assert {one for one, _ in every.values()} == {kind}, "ranks call different operations"
            finish({rank: array for rank, (_, array) in every.items()})

        return Request(self._world, key, end)

    def Iallgather(self, send: Any, receive: Any) -> Request:
        def finish(every: dict[int, Any]) -> None:
            receive.reshape(-1)[...] = np.concatenate([every[rank].reshape(-1) for rank in range(self._world.size)])

        return self._start("Iallgather", send.copy(), finish)

    def Allgather(self, send: Any, receive: Any) -> None:
        self.Iallgather(send, receive).Wait()

    def Allgatherv(self, send: Any, receive: Any) -> None:
        array, counts, begins = _split(receive)

        def finish(every: dict[int, Any]) -> None:
            for rank, (count, begin) in enumerate(zip(counts, begins, strict=True)):
                array[begin : begin + count] = every[rank].reshape(-1)

        self._start("Allgatherv", send.copy(), finish).Wait()

    def Ialltoall(self, send: Any, receive: Any) -> Request:
        def finish(every: dict[int, Any]) -> None:
            parts = [
                np.split(every[rank].reshape(-1), self._world.size)[self._rank] for rank in range(self._world.size)
            ]
            receive.reshape(-1)[...] = np.concatenate(parts)

        return self._start("Ialltoall", send.copy(), finish)

    def Ialltoallv(self, send: Any, receive: Any) -> Request:
        array, counts, begins = _split(receive)

        def finish(every: dict[int, Any]) -> None:
            for rank, (count, begin) in enumerate(zip(counts, begins, strict=True)):
                its, to, starts = every[rank]
                assert to[self._rank] == count
                array[begin : begin + count] = its[starts[self._rank] : starts[self._rank] + count]

        its, to, starts = _split(send)
        return self._start("Ialltoallv", (its.copy(), to, starts), finish)

    def Bcast(self, buffer: Any, root: int = 0) -> None:
        def finish(every: dict[int, Any]) -> None:
            buffer.reshape(-1)[...] = every[root].reshape(-1)

        self._start("Bcast", buffer.copy(), finish).Wait()

    def Barrier(self) -> None:
        self._start("Barrier", None, lambda every: None).Wait()


def run(size: int, program: Callable[[Comm], Any], delay: int = 0, abort: bool = False) -> list[Any]:
    """What ``program(comm)`` returns on each rank; raises the first rank's error, for which the others wait unless ``abort``."""
    world, results, errors = World(size, delay), [None] * size, [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = program(Comm(world, rank))
        except BaseException as error:
            errors[rank] = error  # type: ignore[call-overload]
            if abort or not isinstance(error, ValueError | TypeError):
                with world.condition:
                    world.failed = True
                    world.condition.notify_all()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    found = [error for error in errors if error is not None]
    if found:
        raise sorted(found, key=lambda error: isinstance(error, ConnectionAbortedError))[0]
    return results
