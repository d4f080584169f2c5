"""What the catcher does wrong on purpose, so that one sees what a bad smart host does to us."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .data import DataReader
from .listener import Listener
from .protocol import Dialogue, Method
from .replies import Farewell, Refused
from .transaction import Transaction
from .wire import HungUp

STAGES = ("connect", "helo", "mail", "rcpt", "data", "dot")
_STAGE_OF = {"EHLO": "helo", "HELO": "helo", "MAIL": "mail", "RCPT": "rcpt", "DATA": "data"}
_FORM = (
    "STAGE:CODE, STAGE:drop, STAGE:silence, STAGE:garbage, or STAGE:slow:SECONDS, "
    "each with :PERCENT% if you like"
)
_GARBAGE = b"Segmentation fault"

Act = Callable[["FaultyDialogue"], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """What is done at some stages instead of what is right, and how often."""

    stages: Sequence[str]
    act: Act
    chance: float = 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `rcpt:451:10%` and the like; raise ValueError, which says what it should be."""
        words = text.split(":")
        stages = [words.pop(0)] if words[0] in STAGES else STAGES
        chance = _percent(words.pop(), text) if words and words[-1].endswith("%") else 1
        if len(stages) > 1 and words[:1] != ["slow"]:
            raise ValueError(f"{text!r} begins with no stage: {', '.join(STAGES)}")
        match words:
            case [code] if _is_refusal(code):
                return cls(stages, _saying(int(code)), chance)
            case ["drop" | "silence" | "garbage" as word]:
                return cls(stages, _ACTS[word], chance)
            case ["slow", seconds]:
                return cls(stages, _slow(_seconds(seconds, text)), chance)
        raise ValueError(f"{text!r} is not {_FORM}")


def _is_refusal(code: str) -> bool:
    return code.isascii() and code.isdigit() and 400 <= int(code) <= 599


def _percent(word: str, text: str) -> float:
    try:
        percent = float(word.removesuffix("%"))
    except ValueError:
        percent = -1
    if not 0 < percent <= 100:
        raise ValueError(f"{text!r}: {word} is not between 0% and 100%")
    return percent / 100


def _seconds(word: str, text: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{text!r}: {word} is no number of seconds")
    return seconds


def _saying(code: int) -> Act:
    reply = b"%d %d.0.0 On purpose" % (code, code // 100)

    async def act(dialogue: FaultyDialogue) -> None:
        raise (Farewell if code == 421 else Refused)(reply)

    return act


def _slow(seconds: float) -> Act:
    async def act(dialogue: FaultyDialogue) -> None:
        await asyncio.sleep(seconds)

    return act


async def _drop(dialogue: FaultyDialogue) -> None:
    raise HungUp


async def _garble(dialogue: FaultyDialogue) -> None:
    raise Refused(_GARBAGE)


async def _fall_silent(dialogue: FaultyDialogue) -> None:
    """Raise HungUp once the client has given up."""
    while True:
        await dialogue.wire.piece()


_ACTS: dict[str, Act] = {"drop": _drop, "silence": _fall_silent, "garbage": _garble}


class FaultyDialogue(Dialogue):
    """A session in which the faults of its listener happen."""

    listener: FaultyListener

    async def _arrive(self) -> None:
        try:
            await self._go_wrong("connect")
        except Refused as refused:
            raise Farewell(refused.reply) from None
        await super()._arrive()

    def _method(self, name: str) -> Method:
        obey, stage = super()._method(name), _STAGE_OF.get(name)
        if stage is None:
            return obey

        async def go_wrong_first(dialogue: Dialogue, argument: str) -> None:
            await self._go_wrong(stage)
            await obey(dialogue, argument)

        return go_wrong_first

    async def _store(self, transaction: Transaction, reader: DataReader) -> bytes:
        """Store a mail that is not refused, even if nobody is told of it."""
        try:
            await self._go_wrong("dot")
        except Refused as refused:
            return refused.reply
        except HungUp:
            await super()._store(transaction, reader)
            raise
        return await super()._store(transaction, reader)

    async def _go_wrong(self, stage: str) -> None:
        for fault in self.listener.faults:
            if stage in fault.stages and random.random() < fault.chance:
                await fault.act(self)


@dataclass(eq=False)
class FaultyListener(Listener):
    """A port where faults happen; without any it is like every other."""

    kind: type[Dialogue] = FaultyDialogue
    faults: Sequence[Fault] = ()
