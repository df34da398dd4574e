"""Runs an audit that kills itself in a stage: python -m tests.flows.killing STAGE NUMBER run CONFIG --store STORE

It dies before event NUMBER of that stage, counted from 0: a change of the store (a file that is opened to be written, linked,
renamed or removed, a folder made; of a store in S3 a request that changes it), or, where shards are computed, one that came in.
Where NUMBER is -1, it does not, and prints a line of JSON, the number of events of each stage, on stdout's last line.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.flows import brightness

STAGES = {
    "compute_all": "computing",
    "finalise_pass": "joining",
    "draw_pictures": "drawing",
    "publish_run": "publishing",
    "write_reports": "reporting",
}
"""The audit's stages by the function of `flows.orchestration.audit` that carries each out."""

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
REQUESTS = {
    "put_object",
    "copy_object",
    "delete_object",
    "delete_objects",
    "create_multipart_upload",
    "upload_part",
    "complete_multipart_upload",
}


class Killer:
    def __init__(self, stage: str, number: int) -> None:
        self.stage, self.number, self.current = stage, number, ""
        self.events = Counter[str]()

    def count(self) -> None:
        if self.current == self.stage and self.events[self.stage] == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.current:
            self.events[self.current] += 1

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def staged(*arguments: Any) -> Any:
            before, self.current = self.current, STAGES[name]
            try:
                return function(*arguments)
            finally:
                self.current = before

        return staged


def main() -> None:
    stage, number, *command = sys.argv[1:]
    killer, store = Killer(stage, int(number)), command[command.index("--store") + 1]

    def heed(event: str, arguments: tuple[Any, ...]) -> None:
        if not killer.current or event not in CHANGES | {"open"}:
            return
        path, writes = str(arguments[0]), event != "open" or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and path.startswith(store):
            killer.count()

    from flows.orchestration.environment import prepare_environment

    prepare_environment()
    brightness.register()
    import flows.orchestration.audit
    import flows.runtime.progress
    from flows.cli.app import app

    for name in STAGES:
        setattr(flows.orchestration.audit, name, killer.wrap(name, getattr(flows.orchestration.audit, name)))
    advance = flows.runtime.progress.ProgressBar.advance

    def counted(self: Any, *arguments: Any) -> None:
        if killer.current == "computing":
            killer.count()
        advance(self, *arguments)

    flows.runtime.progress.ProgressBar.advance = counted  # type: ignore[method-assign]
    if store.startswith("s3://"):
        watch_s3(killer)
    else:
        sys.addaudithook(heed)
    try:
        app(command, standalone_mode=False)
    finally:
        print(json.dumps(killer.events))


def watch_s3(killer: Killer) -> None:
    import s3fs

    from storage.runs import lease

    lease.LEASE_SECS, lease.RENEWAL_SECS, lease.ASKING_SECS = 3.0, 0.5, 0.2
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if method in REQUESTS and not str(options.get("Key", "")).endswith("/lock"):
            killer.count()
        return await call(self, method, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = counted


if __name__ == "__main__":
    main()
