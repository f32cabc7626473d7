"""The cases that a judge decides, and its replies: each is kept as it comes, and none is asked for twice.

The file of judgements, JSON Lines, can be given to another evaluation, or replayed without any judge. A reply belongs
to the judge's name and the words it was asked with, so a changed answer of the model is judged anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vigc.platform.records import ConfigError, InputError
from vigc.platform.text_lines import read_lines

NUM_AT_ONCE = 8
AskJudge = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to be judged."""

    id: str
    prompt: str
    is_usable: Callable[[str], bool]
    num_tries: int = 1  # until a reply is usable


class Judgements:
    """What is recorded, and where new replies go."""

    def __init__(self, judge: str, recorded: Iterable[Path], file: Path | None) -> None:
        """
        Args:
            judge: its name, part of what a reply belongs to.
            recorded: files to replay; those that are not there are empty.
        Raises:
            InputError: a line of them is broken, other than a last one without its end.
        """
        self._judge, self._file = judge, file
        self._replies: dict[str, str] = {}
        for path in recorded:
            self._replies |= _read(path)

    async def of(self, cases: Iterable[Case], ask: AskJudge | None) -> dict[str, str]:
        """Case id -> the first usable reply, or the last one; what is not recorded is asked.

        Raises:
            ConfigError: something is not recorded and there is no judge to ask.
        """
        at_once = asyncio.Semaphore(NUM_AT_ONCE)
        waiting = list(cases)
        if ask is None and (missing := [one for one in waiting if _key(self._judge, one, 0) not in self._replies]):
            raise ConfigError(
                f"{len(missing)} of {len(waiting)} judgements are not recorded (the first: {missing[0].id}). "
                "Name a judge with --judge-url and --judge-model, or recorded ones with --judgements."
            )

        async def judged(case: Case) -> tuple[str, str]:
            reply = ""
            async with at_once:
                for number in range(case.num_tries):
                    key = _key(self._judge, case, number)
                    if key not in self._replies:
                        if ask is None:
                            break
                        self._record(key, case, await ask(case.prompt))
                    reply = self._replies[key]
                    if case.is_usable(reply):
                        break
            return case.id, reply

        return dict(await asyncio.gather(*map(judged, waiting)))

    def _record(self, key: str, case: Case, reply: str) -> None:
        self._replies[key] = reply
        if self._file is not None:
            line = {"key": key, "judge": self._judge, "id": case.id, "prompt": case.prompt, "reply": reply}
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())


def _key(judge: str, case: Case, number: int) -> str:
    return hashlib.sha256("\x1f".join([judge, case.id, case.prompt, str(number)]).encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        return {}
    replies = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            replies[str(record["key"])] = str(record["reply"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a killed run left it half written; it is asked for again
                _cut(path, line)
                break
            raise InputError(f"{path}: line {number} is no judgement ({error}). Fix the file.") from error
    return replies


def _cut(path: Path, line: str) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(line.encode())] if line else content)
