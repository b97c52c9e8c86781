"""The campaign: hostile and broken cases at every border, as many as wanted.

python -m tests.hostile --cases 20000 --seed 1
python -m tests.hostile --only checkpoints "photo files" --cases 500

A case runs in a copy of this process, so that one that crashes, takes 20 seconds of a processor, does not end within
three minutes or takes 6 GB is one fault and no more. Each fault is printed with what draws the same case again:
--only BORDER --seed SEED --first NUMBER --cases 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch

from tests.hostile.borders import BORDERS, SHARES, place

LIMIT = 20  # seconds of a processor that a case may take
PATIENCE = 180  # seconds on the clock, on a machine that has other work
MEMORY = 6 << 30  # bytes that a case may take beyond what the process has
FORK = multiprocessing.get_context("fork")


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__.splitlines()[0])
    arguments.add_argument("--cases", type=int, default=1000, help="in all, shared out among the borders")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--first", type=int, default=0, help="number of the first case of each border")
    arguments.add_argument("--only", nargs="+", choices=BORDERS, default=list(BORDERS), metavar="BORDER")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    place()  # before the copies are made
    total = sum(SHARES[name] for name in options.only)
    outcomes: Counter[tuple[str, str]] = Counter()
    faults, start = 0, time.monotonic()
    for name in options.only:
        count = max(1, round(options.cases * SHARES[name] / total))
        worker = Worker()
        for number in range(options.first, options.first + count):
            outcome, fault = worker.run(name, options.seed, number)
            outcomes[name, outcome] += 1
            if fault:
                faults += 1
                print(f"FAULT --only {name!r} --seed {options.seed} --first {number}: {fault}", flush=True)
        worker.end()
        said = ", ".join(f"{n} {outcome}" for (border, outcome), n in outcomes.items() if border == name)
        print(f"{name}: {said}", flush=True)
    shutil.rmtree(place().folder, ignore_errors=True)
    cases = sum(outcomes.values())
    print(f"{cases} cases, {faults} faults, {time.monotonic() - start:.0f} seconds")
    return int(faults > 0)


class Worker:
    """A copy of this process that runs cases one after another, and is replaced where one ends it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(theirs,), daemon=False)
        self.process.start()
        theirs.close()

    def run(self, name: str, seed: int, number: int) -> tuple[str, str]:
        """What came of a case, and what is wrong with that."""
        self.pipe.send((name, seed, number))
        start, used = time.monotonic(), self.processor_seconds()
        try:
            while time.monotonic() - start < PATIENCE and self.processor_seconds() - used < LIMIT:
                if self.pipe.poll(1):
                    return self.pipe.recv()
            outcome = "hung", f"no end after {self.processor_seconds() - used:.0f} seconds of a processor"
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            outcome = "crashed", f"the process ended with {ended}"
        self.end()
        self.start()
        return outcome

    def processor_seconds(self) -> float:
        """What the process has taken, without the commands that it started. EOFError where it has ended."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise EOFError from None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("ignore")
    while True:
        name, seed, number = pipe.recv()
        folder = Path(tempfile.mkdtemp(prefix="hostile-case-"))
        try:
            pipe.send((BORDERS[name](Random(f"{name} {seed} {number}"), folder), ""))
        except MemoryError:
            pipe.send(("memory", f"more than {MEMORY >> 30} GB"))
        except Exception as error:
            pipe.send(("fault", f"{type(error).__name__}: {str(error)[:500]}"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
