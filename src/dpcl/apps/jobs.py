"""Jobs of the service: a queue, worker processes that can be stopped at once, a private folder."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from dpcl.apps.worker import Order, Work, run_worker, separate_job
from dpcl.errors import InputError

State = Literal["queued", "running", "done", "failed", "cancelled"]
PREFIX = "dpcl-serve-"  # beginning of the names of private folders
POLL = 0.05  # s between two looks at a worker and at the wish to cancel
LOCK = "lock"  # file in a private folder, locked while its server runs


@dataclass
class Job:
    """One recording of one client.

    Attributes:
        id: name that nobody can guess.
        owner: key or visit that may see the job; empty for anyone who has the id.
        order: the order of the client.
        folder: private folder with the recording and, later, the outputs.
        state: queued, running, done, failed or cancelled.
        share: share of the work that is done, 0 to 1.
        result: outputs, seconds, sample_rate and warnings of a job that is done.
        error: one sentence for a job that failed.
        ended: time at which the job ended, s; 0 before.
    """

    id: str
    owner: str
    order: Order
    folder: Path
    state: State = "queued"
    share: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    ended: float = 0.0

    @property
    def recording(self) -> Path:
        """Return the file of the recording."""
        return self.folder / "recording" / self.order.name

    @property
    def outputs(self) -> Path:
        """Return the folder of the outputs."""
        return self.folder / "outputs"

    @property
    def over(self) -> bool:
        """Return True for a job that is done, failed or cancelled."""
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """Queue of jobs and the processes that work on them.

    Everything lies in one private folder (mode 700), which `close` removes. Folders of servers that
    crashed are removed at the start of the next one.

    Args:
        workers: number of jobs at once.
        waiting: largest number of queued jobs.
        keep: time that a finished job stays, s.
        work: function of a worker process.
    """

    def __init__(
        self,
        workers: int = 1,
        waiting: int = 100,
        keep: float = 3600.0,
        work: Work = separate_job,
    ) -> None:
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 700
        self._lock_file = _locked_file(self.root / LOCK)
        self.waiting, self.keep, self.work = waiting, keep, work
        self.counts: Counter[str] = Counter()  # jobs by final state, for the metrics
        self.seconds = 0.0  # of audio separated
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def new(self, owner: str, order: Order) -> Job:
        """Return a new job with empty folders, before its recording has arrived.

        Raises:
            InputError: The queue is full.
        """
        self._expire()
        with self._change:
            if len(self._queue) >= self.waiting:
                raise InputError(f"{len(self._queue)} jobs are waiting; try again in a minute")
            name = secrets.token_urlsafe(16)
            job = Job(name, owner, order, self.root / name)
        job.recording.parent.mkdir(parents=True, mode=0o700)
        return job

    def submit(self, job: Job) -> None:
        """Queue a job whose recording has arrived."""
        with self._change:
            self._jobs[job.id] = job
            self._queue.append(job)
            self._change.notify()

    def find(self, name: str, owner: str) -> Job | None:
        """Return a job of this owner; None if it does not exist or belongs to another."""
        self._expire()
        job = self._jobs.get(name)
        return job if job is not None and job.owner in ("", owner) else None

    def position(self, job: Job) -> int:
        """Return the number of jobs that run before this one can begin; 0 if it runs or is over."""
        with self._change:
            return self._queue.index(job) + 1 if job in self._queue else 0

    def cancel(self, job: Job) -> None:
        """Stop the work on a job at once and remove its files."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
            if not job.over:
                self._end(job, "cancelled")
            self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def leave(self, owner: str) -> None:
        """Cancel and remove all jobs of an owner, whose visit ended."""
        for job in [job for job in self._jobs.values() if owner and job.owner == owner]:
            self.cancel(job)

    def states(self) -> Counter[str]:
        """Return the number of jobs that are queued and running."""
        return Counter(job.state for job in list(self._jobs.values()) if not job.over)

    def metrics(self) -> list[str]:
        """Return the number of jobs by state, and the seconds of audio, as lines for Prometheus."""
        states = self.states()
        ended = ("done", "failed", "cancelled")
        return [
            "# TYPE dpcl_jobs gauge",
            *(f'dpcl_jobs{{state="{s}"}} {states[s]}' for s in ("queued", "running")),
            "# TYPE dpcl_jobs_total counter",
            *(f'dpcl_jobs_total{{state="{s}"}} {self.counts[s]}' for s in ended),
            "# TYPE dpcl_audio_seconds_total counter",
            f"dpcl_audio_seconds_total {self.seconds:.3f}",
        ]

    def close(self) -> None:
        """Stop all work and remove the private folder."""
        with self._change:
            self._closed = True
            for job in self._jobs.values():
                if not job.over:
                    self._end(job, "cancelled")
            self._change.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)
        self._lock_file.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _end(self, job: Job, state: State) -> None:
        """Set the final state of a job."""
        job.state, job.ended = state, time.monotonic()
        self.counts[state] += 1

    def _expire(self) -> None:
        """Remove jobs that ended long ago."""
        limit = time.monotonic() - self.keep
        for job in [job for job in list(self._jobs.values()) if job.over and job.ended < limit]:
            self.cancel(job)

    def _run(self) -> None:
        """Work on one job after another in one process, which is replaced after it was stopped."""
        worker = self._start()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    break
                job = self._queue.popleft()
                job.state = "running"
            if worker is None or not worker[0].is_alive():
                worker = self._start()
            if worker is None:
                self._fail(job, "the server could not start a process; try again later")
            elif not self._follow(job, *worker):
                _stop(worker)
                worker = self._start()  # is ready before the next job
            if job.id not in self._jobs:  # the process may have written since `cancel`
                shutil.rmtree(job.folder, ignore_errors=True)
        if worker is not None:
            _stop(worker)

    def _start(self) -> tuple[Any, Connection] | None:
        """Start a worker process; None if the machine has no memory or processes left."""
        context = multiprocessing.get_context("spawn")
        try:
            own, other = context.Pipe()
            process = context.Process(target=run_worker, args=(other, self.work), daemon=True)
            process.start()
        except OSError:
            return None
        other.close()
        return process, own

    def _fail(self, job: Job, error: str) -> None:
        """End a job that still runs, with a sentence."""
        with self._change:
            if job.state == "running":
                job.error = error
                self._end(job, "failed")

    def _follow(self, job: Job, process: Any, connection: Connection) -> bool:
        """Follow the work on a job to its end; return False if the process must be stopped."""
        try:
            connection.send((job.order, job.folder))
            while job.state == "running":
                if not connection.poll(POLL):
                    continue
                kind, value = connection.recv()
                with self._change:
                    if job.state != "running":
                        return False
                    if kind == "share":
                        job.share = value
                    elif kind == "done":
                        job.share, job.result = 1.0, value
                        self.seconds += value.get("seconds", 0.0)
                        self._end(job, "done")
                        return True
                    else:
                        job.error = value
                        self._end(job, "failed")
                        return True
        except (EOFError, OSError):
            self._fail(job, "the process of the separation ended, perhaps for lack of memory")
        return False


def _stop(worker: tuple[Any, Connection]) -> None:
    """End a worker process at once."""
    process, connection = worker
    process.kill()
    process.join()
    connection.close()


def remove_leftovers(folder: Path | None = None) -> list[Path]:
    """Remove private folders of servers that do not run any more, such as after a crash.

    Args:
        folder: folder of temporary files; None for the one of the system.

    Returns:
        The folders that were removed.
    """
    removed = []
    for path in Path(folder or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            _locked_file(path / LOCK).close()
        except (OSError, AttributeError):  # a server runs there, or the system has no such locks
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def _locked_file(path: Path) -> Any:
    """Open and lock a file; OSError if another process holds the lock."""
    file = path.open("a")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        file.close()
        raise
    return file
