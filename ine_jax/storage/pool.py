"""A pool of threads that stores results behind the caller."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
THREADS = max(2, min(8, os.cpu_count() or 1))
WAITING = 4 * THREADS  # images that wait for a thread; more make the caller wait


class Pool:
    """Threads for small tasks. A context manager: leaving waits for all tasks and raises their first error."""

    def __init__(self) -> None:
        """Start no thread before the first task."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._pending: deque[Future[Any]] = deque()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        if error is None:
            for future in self._pending:
                future.result()

    def submit(
        self, room: threading.Semaphore, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Hand over a task, which holds one place of `room` until it ends; raises the error of an earlier one."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        room.acquire()
        future = self._threads.submit(task, *args, **kwargs)
        future.add_done_callback(lambda _: room.release())
        self._pending.append(future)
        return future
