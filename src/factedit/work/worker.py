"""A worker: `python -m factedit.work.worker FD`, started by `processes.py`; it ends when its driver does."""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

from factedit.work.crew import FAILED, READY, RESULT, Order, failed


def answer_items(pipe: Connection) -> None:
    """Prepare for the order that comes first, tell the key, and answer every item until the driver is gone."""
    from factedit.work.jobs import begin

    with suppress(EOFError, OSError):  # of the pipe: the driver is gone
        order = pipe.recv_bytes()
        try:
            job = begin(Order.read(order))
            answer = READY + json.dumps(job.key, default=str).encode()
        except Exception as error:  # the driver raises it as what it is
            pipe.send_bytes(failed(error))
            return
        while answer[:1] != FAILED:
            pipe.send_bytes(answer)
            item = json.loads(pipe.recv_bytes())
            try:
                answer = RESULT + job.compute(item)
            except Exception as error:
                answer = failed(error)
        pipe.send_bytes(answer)


def _end_with_driver(parent: int) -> None:
    """Leave when the driver was killed while this worker computes."""
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_driver, args=(os.getppid(),), daemon=True).start()
    answer_items(Connection(int(sys.argv[1])))
