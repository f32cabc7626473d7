from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import Loop, make_act, make_nothing
from waiting import wait_until

from vigc.platform.images import isolation
from vigc.platform.images.isolation import Child, ChildDied, ChildError, ChildTimeout
from vigc.platform.records import ModelError


@pytest.fixture
def child():
    child = Child(make_act)
    yield child
    child.stop()


@pytest.fixture
def loop_child():
    child = Child(Loop)
    yield child
    child.stop()


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_calls_are_answered_by_one_other_process(child):
    large = os.urandom(3_000_000)
    assert child.call(("echo", large)) == large
    pids = {child.call(("pid",)) for _ in range(3)}
    assert pids == {child.pid}
    assert child.pid != os.getpid()


def test_the_child_has_a_session_of_its_own_no_input_and_ignores_ctrl_c(child, capfd):
    session, ignores, read = child.call(("session",))
    assert (session, ignores, read) == (child.pid, True, "")
    child.call(("print",))
    child.stop()
    assert child.pid is None
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "printed in the child\n")


def test_the_child_imports_neither_ray_nor_pyarrow_unless_its_handler_does(child):
    assert not {"ray", "pyarrow", "numpy"} & set(child.call(("modules",)))


@pytest.mark.parametrize(
    ("payload", "words", "code"),
    [
        (("crash",), "SIGSEGV", -signal.SIGSEGV),
        (("exit", 3), "exit code 3", 3),
        (("exit", 0), "exit code 0", 0),
    ],
)
def test_a_death_is_told_in_words_and_the_next_call_has_a_new_child(child, payload, words, code):
    first = child.call(("pid",))
    with pytest.raises(ChildDied, match=words) as died:
        child.call(payload)
    assert died.value.exit_code == code
    assert child.call(("pid",)) not in (first, None)
    assert str(pickle.loads(pickle.dumps(died.value))) == str(died.value)


def test_a_death_ends_every_call_under_way_and_no_answer_that_came_before_is_lost(child):
    calls = child.submit(("echo", 1), ("crash",), ("echo", 2))
    assert calls[0].result() == 1
    for call in calls[1:]:
        with pytest.raises(ChildDied):
            call.result()


def test_an_endless_call_is_ended(child):
    pid = child.call(("pid",))
    with pytest.raises(ChildTimeout, match=r"0\.3 s"):
        child.call(("spin",), timeout_s=0.3)
    assert is_gone(pid)
    assert child.call(("echo", 1)) == 1


def test_memory_beyond_the_limit_is_an_error_in_the_child():
    child = Child(make_act, memory_bytes=200 * 2**20)
    assert child.call(("allocate", 100 * 2**20)) == 100 * 2**20
    with pytest.raises(MemoryError):
        child.call(("allocate", 300 * 2**20))
    assert child.call(("echo", 1)) == 1
    child.stop()


@pytest.mark.parametrize("kind", ["child", "loop_child"])
def test_an_exception_of_the_handler_arrives_unchanged_and_the_child_lives_on(kind, request):
    child = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match="^wrong") as raised:
        child.call(("raise", "value"))
    assert str(raised.value) == "wrong"
    assert "children.py" in raised.value.__notes__[0]
    with pytest.raises(ModelError, match="^no weights$") as raised:
        child.call(("raise", "model"))
    assert not hasattr(raised.value, "__notes__")
    with pytest.raises(ChildError, match="Unpicklable: cannot travel") as raised:
        child.call(("raise", "odd"))
    assert "children.py" in raised.value.__notes__[0]
    assert child.call(("echo", 1)) == 1


def test_what_making_the_handler_raises_is_raised_by_every_call():
    child = Child(make_nothing, (ModelError("no weights here"),))
    for _ in range(2):
        with pytest.raises(ModelError, match="no weights here"):
            child.call(("echo", 1))


def test_what_is_said_and_followed_by_death_between_two_looks_is_heard(monkeypatch):
    child = Child(make_nothing, (ModelError("no weights here"),))
    original, looks = select.poll, []

    class LatePoll:
        """Its first look misses what comes while it lasts, as does one on a busy machine."""

        def __init__(self):
            self.poller = original()
            self.register = self.poller.register

        def poll(self, timeout):
            looks.append(timeout)
            if len(looks) > 1:
                return self.poller.poll(timeout)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            return []

    monkeypatch.setattr(isolation.select, "poll", LatePoll)
    with pytest.raises(ModelError, match="no weights here"):
        child.call(("echo", 1))
    assert len(looks) > 1


def test_a_function_of_the_main_script_can_be_the_handler(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from vigc.platform.images.isolation import Child\n"
        "def double(x): return 2 * x\n"
        "def make(): return double\n"
        "print(Child(make).call(21))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "42\n", done.stderr


def test_a_killed_parent_takes_along_a_child_in_an_endless_loop(tmp_path):
    code = f"from children import orphaned; orphaned({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: is_gone(int((tmp_path / "child").read_text())))


def test_the_child_outlives_the_thread_that_first_called_it(child):
    async def first_call():
        return await asyncio.to_thread(child.call, ("pid",))

    pid = asyncio.run(first_call())
    time.sleep(0.3)
    assert child.call(("pid",)) == pid


def test_coroutines_run_at_once_and_each_gets_its_own_answer(loop_child):
    async def main():
        return await asyncio.gather(*(loop_child.acall(("meet", 50, i)) for i in range(50)))

    assert asyncio.run(main()) == list(range(50))


def test_the_death_of_the_loop_ends_all_its_calls_and_the_next_has_a_new_one(loop_child):
    async def main():
        slow = [asyncio.create_task(loop_child.acall(("sleep", 60))) for _ in range(5)]
        await loop_child.acall(("echo", 0))
        with pytest.raises(ChildDied, match="SIGSEGV"):
            await loop_child.acall(("crash",))
        deaths = await asyncio.gather(*slow, return_exceptions=True)
        assert [type(death) for death in deaths] == [ChildDied] * 5
        return await loop_child.acall(("echo", 7))

    assert asyncio.run(main()) == 7


def test_cancelling_a_call_cancels_its_coroutine_in_the_child(loop_child):
    async def main():
        slow = asyncio.create_task(loop_child.acall(("sleep", 60)))
        await loop_child.acall(("echo", 0))
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return await loop_child.acall(("cancelled",))

    assert asyncio.run(main()) == 1
