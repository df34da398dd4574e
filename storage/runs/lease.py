"""A lease in S3: an object that its holder writes anew every few seconds. One that is no longer written is free for whoever asks.

Its age is the difference of two times of the server's, when it was written and when it was asked for: no two machines need agree
on the time.
"""

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Event, Thread

from storage.filesystems import CONFLICT, TAKEN, create_file, error_code, read_object, remote

LEASE_SECS, RENEWAL_SECS, ASKING_SECS = 30.0, 5.0, 1.0


@dataclass(frozen=True)
class Sign:
    """What there is of a lease. tag: the object's ETag, which every renewal changes. age: seconds since it was written."""

    tag: str
    age: float


class Lease:
    """A lease that this process holds, and renews in a thread. holder: tells it from all others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.count = 0
        self.renewed = 0.0
        self.tag = ""
        self.ending = Event()
        self.renewing = Thread(target=self.renew, daemon=True, name="lease")

    @property
    def text(self) -> str:
        return json.dumps({"holder": self.holder, "renewal": self.count})

    def acquire(self) -> bool:
        """Takes the lease where none holds it, and waits for one that may be a dead process's; False where another lives."""
        seen = None
        while True:
            self.renewed = time.monotonic()
            try:
                create_file(self.path, self.text)
                break
            except FileExistsError:
                sign = read_sign(self.path)
            if sign is None:
                continue
            if seen is not None and sign.tag != seen:
                return False
            if sign.age > LEASE_SECS:
                if not self.write(sign.tag):
                    return False
                break
            seen = sign.tag
            time.sleep(ASKING_SECS)
        self.tag = self.tag or tag_of_own(self.path)
        self.renewing.start()
        return True

    def write(self, tag: str) -> bool:
        """Writes the lease over what has this tag; False where something else is there by now."""
        filesystem, place = remote(self.path)
        try:
            self.tag = filesystem.pipe_file(place, self.text.encode(), IfMatch=tag)["ETag"]
        except FileNotFoundError:
            return False
        except OSError as error:
            if error_code(error) in TAKEN | CONFLICT:
                # An answer that was lost is asked for again, and then finds what the first request wrote.
                return self.is_ours()
            raise
        return True

    def is_ours(self) -> bool:
        sign, content = read_sign(self.path), read_object(self.path)
        if sign is None or content is None or self.holder.encode() not in content:
            return False
        self.tag = sign.tag
        return True

    def renew(self) -> None:
        while not self.ending.wait(RENEWAL_SECS):
            now = time.monotonic()
            self.count += 1
            try:
                if not self.write(self.tag):
                    return
            except Exception:  # a network that is lost: it may come back before another takes the lease
                continue
            self.renewed = now

    def is_held(self) -> bool:
        """Whether no other process can have taken it."""
        return self.renewing.is_alive() and (time.monotonic() - self.renewed < LEASE_SECS or self.is_ours())

    def release(self) -> None:
        self.ending.set()
        self.renewing.join()
        filesystem, place = remote(self.path)
        bucket, _, key = place.partition("/")
        filesystem.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=self.tag)


def tag_of_own(path: Path) -> str:
    sign = read_sign(path)
    return "" if sign is None else sign.tag


def read_sign(path: Path) -> Sign | None:
    """None where there is no lease."""
    filesystem, place = remote(path)
    bucket, _, key = place.partition("/")
    try:
        answer = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return Sign(answer["ETag"], (now - answer["LastModified"]).total_seconds())


def is_live(path: Path) -> bool:
    """Whether a process holds a lease now, or did until some seconds ago."""
    sign = read_sign(path)
    return sign is not None and sign.age <= LEASE_SECS
