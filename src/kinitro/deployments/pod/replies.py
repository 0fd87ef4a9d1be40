"""Requests that may come twice: over the public internet an answer can get lost on its way."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

KEPT = 32
"""One caller has one request under way; of a few callers the latest must be here."""


@dataclass(frozen=True)
class Reply:
    """One answer as it goes out."""

    status: int
    content_type: str
    body: bytes


class Replies:
    """Does a request of one key once, however often it comes, and gives every caller its one reply."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: OrderedDict[str, _Turn] = OrderedDict()

    def once(self, key: str | None, work: Callable[[], Reply]) -> Reply:
        """The reply of `work`, or that of an earlier request of this key. Without a key, always of `work`."""
        if key is None:
            return work()
        with self._lock:
            turn = self._turns.get(key)
            first = turn is None
            if turn is None:
                turn = self._turns[key] = _Turn()
                while len(self._turns) > KEPT:
                    self._turns.popitem(last=False)
        if first:
            try:
                turn.reply = work()
            finally:
                turn.done.set()
        turn.done.wait()
        return turn.reply or Reply(502, "text/plain", b"the first try of this request failed")


class _Turn:
    """One request under way or done."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: Reply | None = None
