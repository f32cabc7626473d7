"""A child process for work that may kill the process it runs in: broken images in a decoder written in C, an engine
on a faulty GPU. The child's death is an exception here, and the next call has a new child.

A `Child` answers calls one after another where its handler is a plain function, and all at once, on an event loop of
its own, where it is a coroutine function. It ends when its parent does, however that happens. Its memory can be
limited: an allocation beyond the limit is a MemoryError there, or the child's death, and not the machine's. What counts
is the memory that it can write to (RLIMIT_DATA), so that mapped files and address space set aside for CUDA are free.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import inspect
import itertools
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from vigc.platform.records import VigcError

Handler = Callable[[Any], Any]

_CODE = (
    "import sys; sys.path[:] = sys.argv[4:]; from vigc.platform.images.isolation import _live; _live(*sys.argv[1:4])"
)
_HEADER = struct.Struct(">QQ?")  # bytes that follow, number of the call (0: making the handler), whether it went well
_PR_SET_PDEATHSIG = 1
_CHECK_S = 1.0  # how soon a death is seen while a process that the child started keeps its socket open


class ChildDied(Exception):
    """The child is gone, and with it the answer to every call that was under way."""

    def __init__(self, how: str, exit_code: int | None = None, while_starting: bool = False) -> None:
        super().__init__(how, exit_code, while_starting)
        self.exit_code = exit_code  # minus the signal's number where one ended it; None: it never lived
        self.while_starting = while_starting  # before it was ready for the first call

    def __str__(self) -> str:
        return str(self.args[0])


class ChildTimeout(ChildDied):
    """A call took too long, and the child was ended for it."""


class ChildError(Exception):
    """Stands for an exception, or an answer, that cannot travel between processes."""


class Call:
    """What was asked of the child and is not answered yet."""

    def __init__(self, life: _Life, future: Future[Any]) -> None:
        self._life, self.future = life, future

    def result(self, timeout_s: float | None = None) -> Any:
        """The handler's answer, or its exception.

        Args:
            timeout_s: after so long, counted from now or from when the child is ready, the child is ended.
        Raises:
            ChildDied: see there. ChildTimeout: it took longer than `timeout_s`.
        """
        wait([self._life.ready])
        if not wait([self.future], timeout_s).done:
            self._life.kill()
            raise ChildTimeout(f"the process did not answer within {timeout_s:g} s and was ended", -signal.SIGKILL)
        return self.future.result()


class Child:
    """See the module. The process starts with the first call; calls may come from any thread and any event loop.

    Args:
        make: called with `args` in the child; what it returns is the handler. What it raises is raised by every call.
        memory_bytes: how much more than after `make` the child may hold.
    """

    def __init__(self, make: Callable[..., Handler], args: tuple[Any, ...] = (), *, memory_bytes: int | None = None):
        self._make, self._memory_bytes = (make, args), memory_bytes
        self._lock = threading.Lock()
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the process that runs now."""
        life = self._life
        return life.pid if life is not None and not life.ended else None

    def start(self) -> None:
        """Begins to make the handler, so that the first call waits for less."""
        self.submit()

    def submit(self, *payloads: Any) -> list[Call]:
        """Hands payloads to the handler, all to the same process, and does not wait for the answers."""
        data = [pickle.dumps(payload, pickle.HIGHEST_PROTOCOL) for payload in payloads]
        with self._lock:
            if self._life is None or self._life.ended:
                self._life = _Life(self._make, self._memory_bytes)
            life = self._life
            return [Call(life, life.send(one)) for one in data]

    def call(self, payload: Any, timeout_s: float | None = None) -> Any:
        (call,) = self.submit(payload)
        return call.result(timeout_s)

    async def acall(self, payload: Any) -> Any:
        """Like `call`, beside others. Cancelling it cancels the handler's coroutine."""
        (call,) = self.submit(payload)
        return await asyncio.wrap_future(call.future)

    def ask(self, payload: Any, timeout_s: float) -> Any:
        """The answer of a child that lives now and gives it in time; else None. Starts and ends nothing."""
        with self._lock:
            if self._life is None or self._life.ended or not self._life.ready.done():
                return None
            future = self._life.send(pickle.dumps(payload, pickle.HIGHEST_PROTOCOL))
        try:
            return future.result(timeout_s)
        except (ChildDied, TimeoutError):
            return None

    def stop(self) -> None:
        """Ends the process. Calls under way raise ChildDied; a later call starts it anew."""
        with self._lock:
            if self._life is not None:
                self._life.kill()
                self._life = None


class _Life:
    """One process, from its start to its death, with the thread that reads from it and the one that writes to it."""

    def __init__(self, make: tuple[Callable[..., Handler], tuple[Any, ...]], memory_bytes: int | None) -> None:
        # By value only what a child cannot import, like a function of the main script.
        from ray import cloudpickle

        self.ended = False
        self._make_error: Callable[[], BaseException] = lambda: ChildDied("the process is gone")
        self.ready: Future[None] = Future()
        self._calls: dict[int, Future[Any]] = {0: self.ready}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        self._outgoing.put(_frame(dumps(make)))
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, theirs = socket.socketpair()
        # Linux ends the child when the thread that started it is gone, so this is done by the thread that stays.
        self._thread = threading.Thread(
            target=self._run, args=(theirs, memory_bytes or 0), name="vigc-child", daemon=True
        )
        self._thread.start()

    @property
    def pid(self) -> int | None:
        self._started.wait()
        return self._process.pid if self._process else None

    def send(self, data: bytes) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self.ended:
                future.set_exception(self._make_error())
                return future
            number = next(self._numbers)
            self._calls[number] = future
            self._outgoing.put(_frame(data, number))
        future.add_done_callback(lambda done: self._outgoing.put(_frame(b"", number)) if done.cancelled() else None)
        return future

    def kill(self) -> None:
        """Kills the process; returns when it is dead and all calls under way have failed."""
        self._started.wait()
        if self._process:
            self._process.kill()
        self._thread.join()

    def _run(self, theirs: socket.socket, memory_bytes: int) -> None:
        own = [str(theirs.fileno()), str(os.getpid()), str(memory_bytes)]
        try:
            with theirs:
                process = self._process = subprocess.Popen(
                    [sys.executable, "-u", "-c", _CODE, *own, *sys.path],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints there goes to stderr
                    start_new_session=True,
                )
        except OSError as error:
            reason = str(error)
            self._end(lambda: ChildDied(f"the process could not be started: {reason}", None, True))
            self._socket.close()
            return
        finally:
            self._started.set()
        writer = threading.Thread(target=self._write, name="vigc-child-writer", daemon=True)
        writer.start()
        while header := self._read(_HEADER.size):
            size, number, is_well = _HEADER.unpack(header)
            data = self._read(size)
            if data is None:
                break
            with self._lock:
                future = self._calls.pop(number, None)
            if future is not None and future.set_running_or_notify_cancel():
                _settle(future, data, is_well)
        code = _exit_code(process)
        is_ready = self.ready.done()
        failure = self.ready.exception() if is_ready else None  # `make` raised
        self._end(lambda: failure or ChildDied(f"the process {_in_words(code)}", code, not is_ready))
        with self._socket:
            writer.join()

    def _end(self, make_error: Callable[[], BaseException]) -> None:
        with self._lock:
            self.ended, self._make_error = True, make_error
            left, self._calls = list(self._calls.values()), {}
        self._outgoing.put(None)
        with suppress(OSError):  # where the other end is closed, some systems call it not connected
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a writer that a living grandchild would keep waiting
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(make_error())

    def _write(self) -> None:
        try:
            while (data := self._outgoing.get()) is not None:
                self._socket.sendall(data)
        except OSError:  # the child is gone; the reading thread tells those who wait
            return

    def _read(self, size: int) -> bytes | None:
        """Reads so many bytes; None when the child is gone."""
        assert self._process is not None
        buffer = bytearray(size)
        view, poll = memoryview(buffer), select.poll()
        poll.register(self._socket, select.POLLIN)
        while view:
            # Death is looked for before data: what it said last, it said before it died.
            is_dead = self._process.poll() is not None
            if not poll.poll(0 if is_dead else _CHECK_S * 1000):
                if is_dead:
                    return None
                continue
            try:
                received = self._socket.recv_into(view)
            except OSError:
                return None
            if not received:
                return None
            view = view[received:]
        return bytes(buffer)


def _settle(future: Future[Any], data: bytes, is_well: bool) -> None:
    try:
        value = pickle.loads(data)
    except Exception as error:  # noqa: BLE001  unpickling runs anybody's code; the caller gets the error
        value, is_well = ChildError(f"the answer cannot be read here: {type(error).__name__}: {error}"), False
    if is_well:
        future.set_result(value)
    else:
        future.set_exception(value)


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # it closed its socket, or hangs while it ends
        process.kill()
        return process.wait()


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as happens for want of memory" if -code == signal.SIGKILL else ""
    return f"was ended by {name} ({signal.strsignal(-code)}{hint})"


def _frame(data: bytes, number: int = 0, is_well: bool = True) -> bytes:
    return _HEADER.pack(len(data), number, is_well) + data


# From here on: what runs in the child.


def _live(descriptor: str, parent: str, memory_bytes: str) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _end_with(int(parent))
    faulthandler.enable()
    os.set_inheritable(int(descriptor), False)
    connection = socket.socket(fileno=int(descriptor))
    size, _, _ = _HEADER.unpack(connection.recv(_HEADER.size, socket.MSG_WAITALL))
    made = connection.recv(size, socket.MSG_WAITALL)
    try:
        make, args = pickle.loads(made)
        handler = make(*args)
        if int(memory_bytes):
            _limit_memory(int(memory_bytes))
    except Exception as error:  # noqa: BLE001  raised where the child was called
        connection.sendall(_error_frame(error, 0))
        _exit(1)
    connection.sendall(_frame(pickle.dumps(None)))
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        asyncio.run(_answer_at_once(connection, handler))
    else:
        _answer_in_turn(connection, handler)
    _exit(0)


def _answer_in_turn(connection: socket.socket, handler: Handler) -> None:
    stream = connection.makefile("rb")
    with suppress(OSError):  # the parent is gone
        while len(header := stream.read(_HEADER.size)) == _HEADER.size:
            size, number, _ = _HEADER.unpack(header)
            if size:  # else a call that was cancelled, and is answered already
                connection.sendall(_answer(handler, stream.read(size), number))


def _exit(code: int) -> NoReturn:
    """At once: the parent is gone, or will be done with this process; threads of the handler's do not hold it up."""
    sys.stderr.flush()
    os._exit(code)


def _answer(handler: Handler, payload: bytes, number: int) -> bytes:
    try:
        return _frame(pickle.dumps(handler(pickle.loads(payload)), pickle.HIGHEST_PROTOCOL), number)
    except Exception as error:  # noqa: BLE001  raised where the child was called
        return _error_frame(error, number)


async def _answer_at_once(connection: socket.socket, handler: Callable[[Any], Awaitable[Any]]) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(payload: bytes, number: int) -> None:
        try:
            frame = _frame(pickle.dumps(await handler(pickle.loads(payload)), pickle.HIGHEST_PROTOCOL), number)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  raised where the child was called
            frame = _error_frame(error, number)
        finally:
            tasks.pop(number, None)
        writer.write(frame)

    while True:
        try:
            size, number, _ = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            payload = await reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):  # the parent is gone
            _exit(0)
        if size:
            tasks[number] = asyncio.create_task(answer(payload, number))
        elif number in tasks:
            tasks[number].cancel()


def _error_frame(error: BaseException, number: int) -> bytes:
    note = f"In the child process:\n{''.join(traceback.format_exception(error))}"
    try:
        if not isinstance(error, VigcError):  # which the user sees as they are
            error.add_note(note)
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:  # noqa: BLE001  pickling runs the exception's own code; any failure means the same
        error_to_send = ChildError(f"{type(error).__name__}: {error}")
        error_to_send.add_note(note)
        data = pickle.dumps(error_to_send)
    return _frame(data, number, is_well=False)


def _end_with(parent: int) -> None:
    """Also in the midst of a call; elsewhere than on Linux, the end of the socket says it after the call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _exit(0)


def _limit_memory(more_bytes: int) -> None:
    """Limits the memory; on Linux only, where the memory in use can be told."""
    if sys.platform == "linux":
        in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (in_use + more_bytes, in_use + more_bytes))
