"""A request to end (SIGTERM from a scheduler, Ctrl-C) in; a question that the loop asks between steps, out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASKING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_asked() -> Iterator[Callable[[], int]]:
    """Gives a function that returns the signal's number once one came, else 0. A second one ends the process at once.

    Signals can be caught in the main thread alone; elsewhere they do what they did before.
    """
    came = [0]

    def note(number: int, _: object) -> None:
        came[0] = number
        for each, was in before.items():
            signal.signal(each, was)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ASKING} if main else {}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0]
    finally:
        for number, was in before.items():
            signal.signal(number, was)
