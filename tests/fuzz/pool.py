"""Worker processes, so that a crash ends one network and not the fuzz."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

#: Seconds that one network may take.
PATIENCE = 900.0
#: Networks after which a worker is replaced: torch keeps what it compiles.
_LIFETIME = 150

Record = dict[str, str]


def results(numbers: list[int], seed: int, processes: int) -> Iterator[tuple[int, list[Record]]]:
    """Findings of every network, in the order in which they come."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, list[Record]]] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    threads = [
        threading.Thread(target=_serve, args=(waiting, done, seed), daemon=True)
        for _ in range(min(processes, len(numbers)))
    ]
    for thread in threads:
        thread.start()
    for _ in numbers:
        yield done.get()


def work(seed: int, given: IO[str], out: IO[str]) -> None:
    """Answer every number that comes in with a line of findings."""
    from tests.fuzz.checks import findings
    from tests.fuzz.networks import make

    for line in given:
        records = list(findings(make(int(line), seed)))
        out.write(json.dumps(records) + "\n")
        out.flush()


def _serve(waiting: Any, done: Any, seed: int) -> None:
    """Hand numbers to worker processes, one after another, until none are left."""
    worker: subprocess.Popen[str] | None = None
    served = 0
    while not waiting.empty():
        try:
            number = waiting.get_nowait()
        except queue.Empty:
            break
        if worker is None or served == _LIFETIME:
            _end(worker)
            worker, served = _start(seed), 0
        answer = _asked(worker, number)
        served += 1
        if isinstance(answer, str):
            _end(worker)
            worker = None
            answer = [{"check": "process", "verdict": "crashed", "text": answer, "backend": ""}]
        done.put((number, answer))
    _end(worker)


def _start(seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fuzz", "--worker", "--seed", str(seed)]
    pipe = subprocess.PIPE
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def _asked(worker: subprocess.Popen[str], number: int) -> list[Record] | str:
    """The worker's findings, or how it ended."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        worker.kill()

    slow = threading.Timer(PATIENCE, stop)
    slow.start()
    try:
        worker.stdin.write(f"{number}\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    finally:
        slow.cancel()
    if line:
        records: list[Record] = json.loads(line)
        return records
    code = worker.wait()
    if late.is_set():
        return f"it took more than {PATIENCE:.0f} s"
    last = (worker.stderr.read().strip().splitlines() or ["nothing on standard error"])[-1]
    return f"the process ended with {code}: {last}"


def _end(worker: subprocess.Popen[str] | None) -> None:
    if worker is not None:
        worker.kill()
        worker.wait()
