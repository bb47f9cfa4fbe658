"""Waiting for events, always with a limit. There is no sleep that stands for an event anywhere else."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")


# How often a start is looked at: benchmarks tell how long it takes.
START_LOOK_SECONDS = 0.003


class TookTooLong(Exception):
    """An event did not come within its limit, or a case did not end within its own."""


def wait_until(what: str, probe: Callable[[], Value], seconds: float = 30.0, every: float = 0.05) -> Value:
    """Asks `probe` until it answers with something true, and returns that. `what` completes "waited … for"."""
    started = time.monotonic()
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() - started >= seconds:
            raise TookTooLong(f"waited {seconds:.0f} s for {what}; the last answer was {value!r}")
        time.sleep(every)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupts whatever runs inside after `seconds`: a command, an HTTP request, a wait. Main thread only."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise TookTooLong(f"not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
