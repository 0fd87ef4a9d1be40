"""The affinetes process itself: one JSON request a line on stdin, one answer a line on stdout.

The end of stdin means that the executor is gone, in whatever way.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

# Any in this file: requests as they come, for `answer` to read.


Answer = Callable[[dict[str, Any]], object]


def serve(
    prepare: Callable[[], Answer], end: Callable[[], None], cancel: Callable[[int], None] = lambda _: None
) -> None:
    """Answers each request in a thread of its own until stdin ends; then `end` removes what is left, and we end too.

    `prepare` imports what is slow and gives what answers; whatever that raises becomes the request's error. `cancel` is
    told the id of a request that nobody waits for any more.
    """
    # What affinetes prints must not mix with our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()
    try:
        answer = prepare()
        for line in sys.stdin:
            request = json.loads(line)
            if "cancel" in request:
                cancel(request["cancel"])
            else:
                threading.Thread(target=_respond, args=(answer, request, answers, lock), daemon=True).start()
    finally:
        end()
    # Not through the interpreter's end: affinetes would look for what is gone.
    os._exit(0)


def _respond(answer: Answer, request: dict[str, Any], answers: TextIO, lock: threading.Lock) -> None:
    reply: dict[str, object] = {"id": request["id"]}
    try:
        reply["result"] = answer(request)
    except Exception as error:  # noqa: BLE001 - affinetes has one error class for everything; the text is the cause
        reply["error"] = str(error)
    with lock, contextlib.suppress(OSError):
        print(json.dumps(reply), file=answers)
