"""Who hears how a run gets on: nobody, or a person at a terminal."""

import sys
import time

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from flows.streams import silence
from storage.runs.run import Run
from storage.text import printable


class Progress:
    """How a run gets on: is told of its stages and of how much is done, and shows nothing.

    began: when it was made, by time.perf_counter. run: the run, when it is planned. is_published: whether all of it but its
    report is there. interrupted: whether a person wants the run to end; a stage that begins or gets on then raises
    KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.interrupted = False
        self.run: Run | None = None
        self.is_published = False

    def stage(self, name: str) -> None:
        """A stage begins."""
        self.heed()

    def advance(self, done: int, failed: int, total: int, what: str = "images") -> None:
        """Of `total` images, or what else is being done, `done` are done, `failed` of them as failures."""
        self.heed()

    def heed(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def say(self, sentence: str) -> None:
        """Something that a person should know of the run."""


class Terminal(Console):
    """stderr, which whoever reads it may close at any time: what is shown there goes on without."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(sys.stderr)


class ProgressBar(Progress):
    """Shows stages and progress on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.display = rich.progress.Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Terminal(),
        )
        self.bar = self.display.add_task("starting", total=None, note="")

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.display.stop()

    def stage(self, name: str) -> None:
        super().stage(name)
        # Not before: what is wrong with a config or a dataset is said without a bar above it.
        self.display.start()
        self.display.update(self.bar, description=name)

    def advance(self, done: int, failed: int, total: int, what: str = "images") -> None:
        super().advance(done, failed, total, what)
        self.display.update(self.bar, completed=done, total=total, note=f"{failed} failed" if failed else what)

    def say(self, sentence: str) -> None:
        self.display.console.print(Text(printable(sentence, lines=True)), soft_wrap=True)
