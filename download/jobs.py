"""Runs thousands of small jobs over days: workers, retries, a limited rate of requests, a journal, whole results.

A job is any object with an `id`. Its work is done in a folder of its own, `.partial/…`, and renamed into place at the
end, so that neither Ctrl-C nor kill -9 leaves half a file under the name of a whole one.
"""

import argparse
import errno
import os
import random
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from download.journal import Journal, read_journal
from macs.options import integer, number

PARTIAL = ".partial"
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
MIN_FREE_BYTES = 32 * 2**20  # below this a failure is put down to the disk, whatever it says
STOPPED, SOME_FAILED, INTERRUPTED = 1, 3, 130  # exit codes
BACKOFF = 2.0  # seconds before the first new attempt, doubled with each
PATIENCE = 10  # failures in a row after which the run stops: the network or the server is at fault, not the clips


class Gone(Exception):
    """The clip cannot be had, now or later; the message says why."""


class Restricted(Exception):
    """The clip is there, but not for this client (its age, its country): no new attempt before the next run."""


class Refused(Exception):
    """No clip and no clear reason: it may be gone, or this client be refused. How the others fare tells (`settle`)."""


class TryLater(Exception):
    """A passing failure. `after`: seconds in which the server wants no request at all; `progress`: a part came."""

    def __init__(self, reason, after=None, progress=False):
        super().__init__(reason)
        self.after, self.progress = after, progress


class Stopped(Exception):
    """The run is being stopped."""


class Pace:
    """Lets one request start every `interval` seconds, over all workers together."""

    def __init__(self, interval, stop):
        self.interval, self.stop = interval, stop
        self.lock, self.free_at = threading.Lock(), 0.0

    def wait(self):
        while True:
            with self.lock:
                now = time.monotonic()
                delay = self.free_at - now
                if delay <= 0:
                    self.free_at = now + self.interval
                    return
            if self.stop.wait(delay):
                raise Stopped

    def pause(self, seconds):
        """Lets no request start for so many seconds."""
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic() + seconds)


@dataclass
class JobOptions:
    """What `add_job_arguments` asks for; the same names."""

    limit: int | None = None
    ids: list[str] | None = None
    dry_run: bool = False
    workers: int = 4
    retry_gone: bool = False
    interval: float = 1.0
    retries: int = 5

    @classmethod
    def of(cls, args):
        """Those of parsed arguments."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})


def add_job_arguments(parser, workers=4, interval=1.0, retries=5):
    """The options that all long jobs have in common; interval None: work that sends no requests has no such option."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--limit", type=integer(1), help="take only the first so many of the list")
    parser.add_argument(
        "--ids",
        type=lambda text: text.split(","),
        metavar="ID,ID",
        help="take only these; write --ids=-abc where an id begins with a dash",
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--workers", type=integer(1), default=workers, help="how many at a time")
    parser.add_argument("--retry_gone", action="store_true", help="try once more what is marked as gone")
    if interval is None:
        parser.set_defaults(interval=0.0, retries=0)
        return
    parser.add_argument(
        "--interval",
        type=number(0),
        default=interval,
        help="seconds from the start of one request to the next, over all workers",
    )
    parser.add_argument(
        "--retries",
        type=integer(0),
        default=retries,
        help="further attempts after a passing failure, with waits of 2, 4, 8, ... s between them",
    )


def select(jobs, options):
    """The jobs that --ids and --limit leave. Raises SystemExit for an id that is not in the list."""
    if options.ids:
        by_id = {job.id: job for job in jobs}
        if unknown := [id for id in options.ids if id not in by_id]:
            raise SystemExit(
                f"--ids: {', '.join(unknown)} not in the list of {len(jobs)}, which begins with "
                f"{', '.join(list(by_id)[:3])}."
            )
        jobs = [by_id[id] for id in options.ids]
    return jobs[: options.limit]


def run_jobs(jobs, work, root, complete, options, *, journal_name, unit, finish=None, batch=1):
    """Does all jobs that are not complete or gone yet, prints a summary, and returns the exit code of the run:
    0 if all came to an end, SOME_FAILED, STOPPED (full disk, no network), INTERRUPTED (Ctrl-C).

    work(job, folder, stop): does one job in an empty folder on root's disk, in a thread; returns facts for the journal
        (a dict; "reason" is printed too). Raises Gone, Restricted, Refused or TryLater; anything else it raises counts
        as this job's failure, a full disk stops the run. It should return early (Stopped) when the event `stop` is set.
    complete(job, entry): whether the job's results are in place; entry is its journal entry or None.
    finish([(job, folder, facts)]): if given, called in the main thread with `batch` finished jobs at a time, before
        they enter the journal, to do what is better done for many at once; it updates the facts.
    options: JobOptions.
    """
    root = Path(root)
    jobs = select(jobs, options)
    if options.dry_run:
        entries, _ = read_journal(root / journal_name)
        todo = remaining(jobs, entries, complete, options.retry_gone)
        print(f"{root}: {len(jobs)} {unit}s, {len(todo)} to do" + (", of which the first are:" if todo else "."))
        for job in todo[:10]:
            print(f"  {job}")
        return 0

    with Journal(root / journal_name) as journal:
        todo = remaining(jobs, journal.entries, complete, options.retry_gone)
        todo_ids = {job.id for job in todo}
        for job in jobs:  # killed between the renaming and the journal
            known = journal.entries.get(job.id, {}).get("state")
            if job.id not in todo_ids and known not in ("done", "gone"):
                journal.add(job.id, "done")
        problem = run_todo(todo, work, root, journal, options, unit, finish, batch)
        shutil.rmtree(root / PARTIAL, ignore_errors=True)  # also what a killed run was at
        entries = journal.entries
    states = Counter(entries.get(job.id, {}).get("state", "open") for job in jobs)
    print(summary(jobs, entries, unit))
    if problem:
        print(f"Stopped: {problem} Run the same command again to continue.")
    elif states["failed"]:
        print("Run the same command again for those that failed.")
    if problem:
        return INTERRUPTED if problem == "interrupted." else STOPPED
    return SOME_FAILED if states["failed"] else 0


def remaining(jobs, entries, complete, retry_gone):
    def is_over(job):
        entry = entries.get(job.id)
        gone = entry is not None and entry["state"] == "gone" and not retry_gone
        return gone or complete(job, entry)

    return [job for job in jobs if not is_over(job)]


def run_todo(todo, work, root, journal, options, unit, finish, batch):
    """The loop of run_jobs. Returns why it stopped early, or None."""
    stop = threading.Event()
    pace = Pace(options.interval, stop)

    def attempt(number, job):
        folder = root / PARTIAL / str(number)
        failures = 0
        while True:
            pace.wait()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                return "done", "", folder, work(job, folder, stop)
            except Gone as error:
                return "gone", str(error), folder, {}
            except Restricted as error:
                return "restricted", str(error), folder, {}
            except Refused as error:
                return "refused", str(error), folder, {}
            except TryLater as error:
                check_disk(root)
                failures = 1 if error.progress else failures + 1
                if failures > options.retries:
                    return "failed", str(error), folder, {}
                if error.after:
                    pace.pause(error.after)
                # the random part keeps the workers from coming back all at once; it touches no result
                if stop.wait(BACKOFF * 2 ** (failures - 1) * random.uniform(1, 1.5)):
                    raise Stopped from None
            except Stopped:
                raise
            except OSError as error:
                check_disk(root)
                if error.errno in FULL_DISK:
                    raise
                return "failed", f"{type(error).__name__}: {error}", folder, {}
            except Exception as error:
                return "failed", f"{type(error).__name__}: {error}", folder, {}

    def record(finished):
        if finish and finished:
            finish([(job, folder, facts) for job, folder, facts in finished])
        for job, folder, facts in finished:
            journal.add(job.id, "done", **facts)
            if facts.get("reason"):
                tqdm.write(f"{job.id}: {facts['reason']}")
            shutil.rmtree(folder, ignore_errors=True)
        finished.clear()

    problem, in_a_row, counts, refused, last_done = None, 0, Counter(), [], 0
    queue, running, finished = iter(enumerate(todo)), {}, []
    executor = ThreadPoolExecutor(options.workers)
    bar = tqdm(total=len(todo), unit=unit, dynamic_ncols=True, disable=not todo)
    try:
        while True:
            # a window, not all at once: what waits for `finish` lies on the disk
            for number, job in islice(queue, options.workers + 2 * batch - len(running)):
                running[executor.submit(attempt, number, job)] = job
            if not running:
                break
            completed = wait(running, return_when=FIRST_COMPLETED).done
            for future in [future for future in running if future in completed]:  # in the list's order
                job = running.pop(future)
                state, reason, folder, facts = future.result()
                if state == "done":
                    in_a_row, last_done = 0, len(refused)
                    finished.append((job, folder, facts))
                    if len(finished) >= batch:
                        record(finished)
                else:
                    if state == "refused":
                        refused.append((job, reason))
                    else:
                        journal.add(job.id, "failed" if state == "restricted" else state, reason)
                    shutil.rmtree(folder, ignore_errors=True)
                    tqdm.write(f"{job.id}: {state}: {reason}")
                    in_a_row += state in ("failed", "refused")
                counts[state] += 1
                bar.update()
                bar.set_postfix(counts)
            if in_a_row >= PATIENCE:
                problem = f"{in_a_row} failures in a row, hardly the {unit}s' fault; the last one: {reason}."
            elif len(refused) > max(counts["done"], 2 * PATIENCE):
                problem = f"{len(refused)} {unit}s refused, {counts['done']} given: it is this client that is refused."
            if problem:
                break
        record(finished)
    except KeyboardInterrupt:
        problem = "interrupted."
        tqdm.write("Stopping as soon as what is under way is done ...")
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        problem = f"the disk of {root} is full or cannot be written to ({error.strerror}). Free some space."
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)
        bar.close()
    settle(journal, refused, last_done, counts["done"])
    return problem


def settle(journal, refused, last_done, num_done):
    """Enters the refused jobs [(job, reason)] in the journal: as gone where the server gave this client most of what it
    asked for, and something after them; else as failed. The first `last_done` of them came before the last success.
    """
    for place, (job, reason) in enumerate(refused):
        if journal.entries.get(job.id, {}).get("state") != "gone":
            is_gone = place < last_done and len(refused) <= num_done
            journal.add(job.id, "gone" if is_gone else "failed", reason)


def check_disk(root):
    """Raises the error of a full disk if there is hardly any space left."""
    if shutil.disk_usage(root).free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))


def summary(jobs, entries, unit):
    """What became of the jobs, and why, as text."""
    states = Counter(entries.get(job.id, {}).get("state", "open") for job in jobs)
    lines = [
        f"{len(jobs)} {unit}s: {states['done']} there, {states['gone']} gone, {states['failed']} failed, "
        f"{states['open']} not asked yet"
    ]
    for state in ("gone", "failed"):
        reasons = Counter(entries[job.id]["reason"] for job in jobs if entries.get(job.id, {}).get("state") == state)
        lines += [f"  {count:6d} {state}: {reason}" for reason, count in reasons.most_common(10)]
    return "\n".join(lines)
