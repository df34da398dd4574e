"""The Dask cluster of a run: started here, or one that exists."""

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import dask
import distributed
from distributed import Client, KilledWorker, LocalCluster
from distributed.comm.core import CommClosedError

from flows.errors import ClusterLost
from flows.runtime.worker import AuditWorker, Work, warm_up
from flows.sections import ComputeSection
from storage.errors import InputError

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_MMAP_THRESHOLD_": 1 << 29}
"""What glibc's allocator keeps of freed memory, bytes. Dask's own setting, 64 KiB, gives a batch's tensors back to the system
and takes them again all the time: the same shard takes 1.8 times as long (docs/decisions/0006-workers-keep-their-memory.md)."""


FAIL_AT_ONCE = {"distributed.scheduler.allowed-failures": 0}
"""A task whose worker dies is given back to us, who count how often, and try it again without neighbours."""


WORKERLESS_SECS = 300.0
"""How long a cluster may be without any worker: long enough for a batch system to replace those whose time is up."""

WATCH_SECS = 5.0

PRELOADS = ["clear_audit.preload", "flows.preload"]
"""What workers of our own clusters import first, in this order: before the first, `flows` may be another's."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_workers(compute: ComputeSection) -> int:
    return compute.workers or (cores() if compute.threads is None else max(1, cores() // compute.threads))


def worker_threads(compute: ComputeSection) -> int | None:
    """Threads of each worker's arithmetic; None leaves it to the workers of a cluster that is not ours."""
    if compute.threads is None and compute.cluster == "local":
        return max(1, cores() // local_workers(compute))
    return compute.threads


def open_cluster(compute: ComputeSection) -> Any:
    """A cluster of workers on this machine, or None where the config names a scheduler that exists."""
    if compute.cluster == "cuda":
        return cuda_cluster()
    if compute.cluster != "local":
        return None
    settings = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in KEEP_MEMORY.items()}
    with dask.config.set(settings | FAIL_AT_ONCE):
        return LocalCluster(
            n_workers=local_workers(compute),
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            # Its HTTP server has a fixed port otherwise, and a second cluster on the machine warns of that.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs="CRITICAL",
            preload=PRELOADS,
        )


def cuda_cluster() -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError("compute.cluster is 'cuda', which needs the extra: pip install 'clear-audit[gpu]'") from error
    return LocalCUDACluster(threads_per_worker=1, dashboard_address=None, preload=PRELOADS)


def load_workers(client: Client, work: Work) -> dict[str, Any]:
    """Loads the model in every worker, side by side; returns what it turned out to be. Raises InputError and ClusterLost."""
    client.register_plugin(AuditWorker(work))
    workers = list(client.nthreads())
    if not workers:
        raise InputError('the Dask cluster has no workers: start some, or set compute.cluster = "local"')
    try:
        facts: list[dict[str, Any]] = client.gather(
            # Not these workers alone: one that ends meanwhile would be waited for without end.
            [client.submit(warm_up, work.key, workers=[worker], allow_other_workers=True, pure=False) for worker in workers]
        )
    except KilledWorker as error:
        raise ClusterLost(
            f"a Dask worker died while it loaded {work.model.title} and gave it an image: the model's own code ended it, it "
            "needed more memory than there is, or something else killed it"
        ) from error
    return facts[0]


class Cluster:
    """A cluster that starts in a thread, with the model loading in its workers, while other things start."""

    def __init__(self, compute: ComputeSection, work: Work) -> None:
        self.compute, self.work = compute, work
        self.cluster: Any = None
        self.client: Client | None = None
        self.loss: str | None = None
        self.ended = Event()
        self.starter = ThreadPoolExecutor(1, thread_name_prefix="cluster")
        self.started = self.starter.submit(self.start)
        self.ending: Future[None] | None = None

    def start(self) -> dict[str, Any]:
        self.cluster = open_cluster(self.compute)
        if self.cluster is None:
            # What it has to say when a scheduler is lost is said by us.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            self.client = Client(self.cluster or self.compute.cluster, timeout=10, set_as_default=False)
        except OSError as error:
            raise InputError(f"compute.cluster '{self.compute.cluster}' does not answer: name a running scheduler") from error
        Thread(target=self.watch, args=(self.client,), name="cluster-watch", daemon=True).start()
        with self.losses():
            return load_workers(self.client, self.work)

    def wait(self) -> tuple[Client, dict[str, Any]]:
        """The client, and what the model turned out to be, when both are there. Raises what starting them raised."""
        facts = self.started.result()
        assert self.client is not None
        return self.client, facts

    def load(self, work: Work) -> None:
        """Loads the model in the workers again, for another audit of it. Raises InputError and ClusterLost."""
        client, _ = self.wait()
        client.unregister_worker_plugin(self.work.key)
        self.work = work
        self.started = self.starter.submit(load_workers, client, work)
        self.started.result()

    @contextmanager
    def losses(self) -> Iterator[None]:
        """Raises ClusterLost for what work raises when its scheduler or all its workers are gone."""
        try:
            yield
        except KilledWorker as error:
            raise ClusterLost("a Dask worker died before there were shards that another one could take over") from error
        except Exception as error:
            is_lost = self.client is not None and self.client.status != "running"
            if not is_lost and not isinstance(error, (CancelledError, CommClosedError)):
                raise
            self.loss = self.loss or f"the Dask scheduler at {self.compute.cluster} is gone: start it and its workers again"
            raise ClusterLost(self.loss) from error

    def watch(self, client: Client) -> None:
        """Gives up what waits for a cluster that has had no worker for too long: Dask would wait for ever."""
        seen = time.monotonic()
        while not self.ended.wait(WATCH_SECS):
            try:
                has_workers = bool(client.nthreads())
            except Exception:  # whoever waits for the scheduler hears of that
                continue
            if has_workers:
                seen = time.monotonic()
            elif time.monotonic() - seen > WORKERLESS_SECS:
                self.loss = f"the Dask cluster at {self.compute.cluster} has no workers any more: start some"
                client.cancel([distributed.Future(key, client) for key in list(client.futures)])
                return

    def release(self) -> None:
        """Begins to end the cluster, for which nothing more is to be done, while other things go on."""
        if self.ending is None:
            self.ended.set()
            self.ending = self.starter.submit(self.stop)

    def close(self) -> None:
        """Returns when the cluster has ended, however far it had come. Raises what ending it raised."""
        self.release()
        self.starter.shutdown()
        assert self.ending is not None
        self.ending.result()

    def stop(self) -> None:
        """Ends a cluster that was started here; leaves one that existed without our plugin."""
        if self.client is not None:
            if self.cluster is None and self.loss is None and not self.started.exception():
                # A scheduler that is gone, or another one by now, does not have it.
                with suppress(OSError, TimeoutError):
                    self.client.unregister_worker_plugin(self.work.key)
            self.client.close()
        if self.cluster is not None:
            # On a busy machine a worker may not end in time: it has been killed then, and no result is waited for.
            with suppress(TimeoutError):
                self.cluster.close()
