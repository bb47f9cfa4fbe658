"""Runs cases one after another, each with its own time limit, and reports. A case is a function that raises when it fails."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from .installing import Unavailable
from .processes import tail_since
from .waiting import at_most
from .world import World

CaseFunction = Callable[[World], str | None]


@dataclass(frozen=True)
class Case:
    """What is run, under which name, and for how long at most."""

    name: str
    seconds: float
    function: CaseFunction


class NotRun(Exception):
    """What a case needs isn't to be had here, which says nothing about pinnace. The text tells what and why."""


_cases: list[Case] = []


def case(seconds: float) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function as a case named like it. What it returns is shown behind its result."""

    def register(function: CaseFunction) -> CaseFunction:
        _cases.append(Case(function.__name__.replace("_", "-"), seconds, function))
        return function

    return register


def all_cases() -> list[Case]:
    """The cases in the order in which they were registered."""
    return list(_cases)


def run(each: Case, world: World) -> bool | None:
    """Runs one case, prints its line, and for a failed one what happened and the ends of the logs.

    Returns whether it passed; `None` if it could not be run.
    """
    logs = {log: log.stat().st_size for log in world.logs()}
    started = time.monotonic()
    note: str | None = None
    problem: str | None = None
    try:
        with at_most(each.seconds):
            note = each.function(world)
        world.check_alive()
    except (NotRun, Unavailable) as reason:
        print(f"{each.name:<42} NOT RUN          {reason}", flush=True)
        world.tidy_after_case()
        return None
    except Exception as error:  # noqa: BLE001 - whatever a case raises is its failure, and the next case runs
        problem = _described(error)
    seconds = time.monotonic() - started
    result = "ok" if problem is None else "FAILED"
    print(f"{each.name:<42} {result:<6} {seconds:6.1f} s  {note or ''}".rstrip(), flush=True)
    if problem is not None:
        print(f"    {problem}")
        for log in world.logs():
            lines = tail_since(log, logs.get(log, 0))
            print(f"    --- {log.parent.name}/{log.name}{'' if lines else ': nothing in this case'}")
            print("".join(f"    | {line}\n" for line in lines), end="", flush=True)
    world.tidy_after_case()
    return problem is None


def _described(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/cases/" in frame.filename]
    place = f" (line {frames[-1].lineno} of {frames[-1].filename.rsplit('/', 1)[1]})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
