"""Runs the checks over the networks, each in a process of its own with a limit of time and memory, and keeps a line for each."""

import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.architectures.checks import Record, examine
from tests.architectures.zoo import Architecture

PRELOADED = ["torch", "tests.architectures.preloaded"]
MEMORY = 16 * 2**30
"""Bytes of address space that a network's process may take."""

PATIENCE = 10
"""How many times its limit a network may take by the clock: other work goes on beside it."""


@dataclass
class Work:
    """A network being examined."""

    architecture: Architecture
    process: ForkServerProcess
    pipe: Connection
    started: float = field(default_factory=time.monotonic)
    results: dict[str, Record] = field(default_factory=dict)
    ended: str = ""


def soak(
    wanted: Iterable[Architecture], rules: list[str], results: Path, processes: int, limit: float, quick: bool
) -> Iterator[Record]:
    """Yields a network's line when it is written to `results`. limit: seconds of a processor's time that a network may take."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    waiting, working = list(wanted), list[Work]()
    results.parent.mkdir(parents=True, exist_ok=True)
    while waiting or working:
        while waiting and len(working) < processes:
            architecture = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(architecture, rules, limit, quick, sender), daemon=True)
            process.start()
            sender.close()
            working.append(Work(architecture, process, receiver))
        multiprocessing.connection.wait([one.pipe for one in working], timeout=1)
        for one in working:
            receive(one, limit)
        for one in [one for one in working if one.ended]:
            working.remove(one)
            record = line(one, rules)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            yield record


def work(architecture: Architecture, rules: list[str], limit: float, quick: bool, pipe: Connection) -> None:
    """What a network's process does."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        for key, record in examine(architecture, rules, quick):
            pipe.send((key, record))
        pipe.send(("end", "done"))
    except Exception as error:
        pipe.send(("end", f"{type(error).__name__}: {error}"))


def receive(one: Work, limit: float) -> None:
    """Takes what the process has sent, and notes when it has ended: by itself, by its limit, or otherwise."""
    try:
        while one.pipe.poll():
            key, value = one.pipe.recv()
            if key == "end":
                one.ended = value
            else:
                one.results[key] = value
    except EOFError:
        one.process.join()
        one.ended = one.ended or ("time-out" if one.process.exitcode == -signal.SIGXCPU else "died")
    if not one.ended and time.monotonic() - one.started > PATIENCE * limit:
        one.process.kill()
        one.ended = "time-out"
    if one.ended:
        one.process.join()


def line(one: Work, rules: list[str]) -> dict[str, Any]:
    """problem: why the network could not be examined; "" where it could. Rules that were not reached end as the process did."""
    facts = one.results.pop("", None)
    outcome = {"outcome": one.ended if one.ended == "time-out" else "died", "message": one.ended}
    unreached = {rule: outcome for rule in rules if rule not in one.results}
    return {
        "source": one.architecture.source,
        "family": one.architecture.family,
        "name": one.architecture.name,
        "variant": one.architecture.variant,
        "problem": one.ended if facts is None else "",
        "seconds": round(time.monotonic() - one.started, 1),
        "facts": facts or {},
        "rules": {} if facts is None else one.results | unreached,
    }
