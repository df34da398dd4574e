"""What is started once for an audit and used by its stages."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from flows.config import AuditConfig
from flows.runtime.cluster import Cluster, worker_threads
from flows.runtime.progress import Progress
from flows.runtime.worker import Work
from storage.datasets import Dataset
from storage.runs.commits import Commit


class Session:
    """What is started once for an audit and used by its stages.

    resumed: the run to go on with, where one is named. rechoose: whether a rule that is to be chosen is chosen anew.
    """

    def __init__(
        self,
        config: AuditConfig,
        store: Path,
        dataset: Dataset,
        progress: Progress,
        resumed: str | None = None,
        rechoose: bool = False,
    ) -> None:
        self.config, self.store, self.dataset, self.progress = config, store, dataset, progress
        self.resumed, self.rechoose = resumed, rechoose
        self.work = work_of(config)
        self.cluster = Cluster(config.compute, self.work)
        self.held = ExitStack()
        self.check_held: Callable[[], None] = lambda: None
        # Not among the stages' parameters: Prefect looks through these, one by one.
        self.commits: dict[str, dict[int, Commit]] = {}

    def take_rule(self, rule: str) -> None:
        """The audit is by this rule from now on, as if the config had named it."""
        self.config = self.config.model_copy(update={"method": self.config.method.model_copy(update={"rule": rule})})
        self.work = work_of(self.config)
        self.cluster.load(self.work)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        with self.held:
            self.cluster.close()


def work_of(config: AuditConfig) -> Work:
    """What the workers of an audit need to know."""
    return Work(
        key=f"clear-audit-{config.config_hash[:16]}",
        model=config.model,
        folder=config.folder,
        dataset=config.dataset,
        input=config.input,
        method=config.method,
        batch_samples=config.compute.batch_samples,
        threads=worker_threads(config.compute),
    )
