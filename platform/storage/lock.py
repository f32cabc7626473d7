"""One writer at a time on a data set, wherever it lies.

On a disk the kernel keeps the lock, and a process that dies holds nothing (files.py). In an object store the lock is
a file that is made by a conditional write and renewed every RENEW_S. Another process may take it over, by another
conditional write, when its owner has ended on this machine, or lies elsewhere and has not renewed it for EXPIRES_S.
An owner that was cut off for so long learns of it at its next renewal. In Google Cloud Storage the writes are
conditional in name only (see storage/gcs.py): two starts within the same two seconds are told apart, but a slow
network can let two writers through.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vigc.platform.records import StoreError
from vigc.platform.storage import Folder, LocalFolder, ObjectFolder, Version, files
from vigc.platform.storage.owner import Owner

LOCK = ".lock"
RENEW_S, EXPIRES_S = 10.0, 60.0

_log = logging.getLogger(__name__)


@contextmanager
def only_writer(folder: Folder) -> Iterator[threading.Event]:
    """Holds the folder's lock. Gives an event that is set when the lock is lost: whoever holds it has to stop then.

    Raises:
        StoreError: someone else holds the lock, the storage refuses, or, at the end, the lock was lost.
    """
    if isinstance(folder, LocalFolder):
        with files.only_writer(folder.path):
            yield threading.Event()  # the kernel takes no lock away
        return
    if not isinstance(folder, ObjectFolder):
        raise TypeError(f"{folder}: nothing is known about locks in a {type(folder).__name__}.")
    lease = _Lease(folder)
    lease.take()
    renewing = threading.Thread(target=lease.keep, name=f"lock of {folder}", daemon=True)
    renewing.start()
    try:
        yield lease.lost
    except BaseException as error:
        lease.release(renewing)
        if lease.lost.is_set():
            error.add_note(lease.loss)
        raise
    lease.release(renewing)
    if lease.lost.is_set():
        raise StoreError(lease.loss)


@dataclass(frozen=True, slots=True)
class _Found:
    """A lock file as it was found."""

    tag: str
    owner: Owner | None
    token: str
    released: bool
    idle_s: float  # since it was renewed
    held_s: float  # since it was taken

    @classmethod
    def parsed(cls, version: Version) -> _Found:
        try:
            fields = json.loads(version.data)
            # From its owner's clock and the storage's; this machine's may differ from both.
            held_s = fields["renewed"] - fields["since"] + version.age_s
            token, released = str(fields["token"]), bool(fields["released"])
        except (ValueError, TypeError, KeyError):  # nobody knows whose; it expires all the same
            token, released, held_s = "", False, version.age_s
        return cls(version.tag, Owner.parsed(version.data), token, released, version.age_s, held_s)

    def is_free(self) -> bool:
        if self.owner and self.owner.is_here():  # and can be seen to live, however long it has been stopped
            return self.released or self.owner.is_gone()
        return self.released or self.idle_s > EXPIRES_S

    def refusal(self, folder: Folder) -> StoreError:
        who = self.owner.described(self.held_s) if self.owner else "another process"
        line = f"{folder} is being written by {who}. Wait for it, or stop it, or choose another folder."
        if not (self.owner and self.owner.is_here()):
            line += f" If it is gone, the lock ends in {max(1.0, EXPIRES_S - self.idle_s):.0f} s."
        return StoreError(line)


class _Lease:
    """A lock file in an object store, and the last tag under which it was this process's own."""

    def __init__(self, folder: ObjectFolder) -> None:
        self.lost = threading.Event()
        self.loss = ""
        self._folder = folder
        self._owner = Owner.this_process()
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._tag = ""
        self._renewed = 0.0

    def take(self) -> None:
        while True:
            began = time.monotonic()
            tag = self._folder.create(LOCK, self._content())
            there = None if tag else self._there()
            if there:
                if there.token == self._token:  # it was made, but the answer got lost and it was asked for again
                    tag = there.tag
                elif there.is_free():
                    tag = self._folder.replace(LOCK, self._content(), there.tag)
                else:
                    raise there.refusal(self._folder)
            if tag:
                self._tag, self._renewed = tag, began
                return

    def keep(self) -> None:
        """Renews the lock until `release`, or until it is lost."""
        while not (self._ended.wait(RENEW_S) or self.lost.is_set()):
            try:
                self._put()
            except StoreError as error:  # the work itself will meet the same refusal; the lock may yet be kept
                _log.warning("The lock could not be renewed. %s", error)

    def release(self, renewing: threading.Thread) -> None:
        self._ended.set()
        renewing.join(RENEW_S)
        if renewing.is_alive():
            _log.warning("%s is locked for another %.0f s, for the storage does not answer.", self._folder, EXPIRES_S)
        elif not self.lost.is_set():
            try:
                self._put(released=True)
            except StoreError as error:
                _log.warning("%s is locked for another %.0f s. %s", self._folder, EXPIRES_S, error)

    def _put(self, *, released: bool = False) -> None:
        began, content = time.monotonic(), self._content(released=released)
        tag = self._folder.replace(LOCK, content, self._tag)
        if not tag:
            there = self._there()
            if there and there.token == self._token:  # as above: the answer to an earlier write got lost
                tag = self._folder.replace(LOCK, content, there.tag)
            elif not there and began - self._renewed < EXPIRES_S:
                # Removed with all that was in the folder, by this process: nobody else could have had the lock since.
                tag = self._folder.create(LOCK, content)
        if tag:
            self._tag, self._renewed = tag, began
            return
        taker = there.owner if there else None
        by = f" by process {taker.pid} on {taker.host}" if taker else ""
        self.loss = (
            f"{self._folder}: while this process was cut off from the storage, its lock was taken over{by}. "
            "Both may have written since: run `vigc verify` when the other is done."
        )
        self.lost.set()

    def _there(self) -> _Found | None:
        try:
            return _Found.parsed(self._folder.version(LOCK))
        except FileNotFoundError:
            return None

    def _content(self, *, released: bool = False) -> bytes:
        return self._owner.json(token=self._token, renewed=time.time(), released=released)
