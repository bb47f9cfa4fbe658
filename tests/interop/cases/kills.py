"""A pinnace that is killed again and again while clients make, replace and remove pins, with Kubo and another pinnace as origins.

`PINNACE_CRASHES=200 tests/interop/run --only 'kills-*'` kills it more often; `PINNACE_CRASH_SEED` repeats the choices of a run (what they
meet depends on the moment).
"""

import json
import os
import random
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.contents import KIB, MIB, Content, Directory, File, chain
from harness.kubo import Kubo
from harness.pinnace import Answer, Pinnace
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

_CRASHES = int(os.environ.get("PINNACE_CRASHES", "20"))

# Clients that send requests at the same time, and pins that each keeps at most.
_CLIENTS, _PINS_MAX = 3, 8

# The longest that a pinnace lives, in seconds.
_LIFE_MAX = 0.5

# One round in so many kills Kubo as well, and as many collect garbage, so that there is always something to fetch.
_KUBO_DIES, _GARBAGE_GOES = 3, 3

# What a name may stand for after a request that wasn't answered: the number of a content, or nothing.
Possible = list[int | None]


@dataclass
class Pinned:
    """What can be pinned, and who has it."""

    content: Content
    root: str
    origins: list[str]


class Client:
    """Sends requests, and knows of each name of its own what is pinned under it."""

    def __init__(self, number: int, seed: int, pinnace: Pinnace, contents: list[Pinned]) -> None:
        self._number, self._random, self._made = number, random.Random(seed), 0
        self._pinnace, self._contents = pinnace, contents
        self.known: dict[str, Possible] = {}
        self.ids: dict[str, str] = {}

    def work(self) -> None:
        """Goes on until the service dies."""
        while self._act():
            pass

    def _act(self) -> bool:
        old = self._random.choice([*self.ids, None])
        kind = self._random.randrange(4)
        if old is not None and kind == 0:
            return self._remove(old)
        if old is not None and kind == 1:
            return self._make(replaced=old)
        if len(self.ids) < _PINS_MAX:
            return self._make()
        return self._send("GET", "/api/psa/pins") is not None

    def _remove(self, old: str) -> bool:
        requestid = self.ids.pop(old)
        self.known[old] = [*self.known[old], None]
        if self._send("DELETE", f"/api/psa/pins/{requestid}") is None:
            return False
        self.known[old] = [None]
        return True

    def _make(self, replaced: str | None = None) -> bool:
        """Asks for a pin under a name that was never used, beside what is there or in the place of one."""
        number = self._random.randrange(len(self._contents))
        name = f"{self._number}-{self._made}"
        self._made += 1
        path = "/api/psa/pins"
        if replaced is not None:
            path += f"/{self.ids.pop(replaced)}"
            self.known[replaced] = [*self.known[replaced], None]
        self.known[name] = [number, None]
        wanted = self._contents[number]
        answer = self._send("POST", path, {"cid": wanted.root, "name": name, "origins": wanted.origins})
        if answer is None:
            return False
        assert answer.body is not None
        if replaced is not None:
            self.known[replaced] = [None]
        self.known[name] = [number]
        self.ids[name] = answer.body["requestid"]
        return True

    def _send(self, method: str, path: str, body: object = None) -> Answer | None:
        """The answer, which has to be a good one; `None` when the service died first."""
        try:
            answer = self._pinnace.request(method, path, body)
        except (OSError, urllib.error.URLError, json.JSONDecodeError):
            return None
        # Half an answer may have come as well.
        if answer.body is None and method != "DELETE":
            return None
        assert answer.status in (200, 202), f"{method} {path} answered {answer}"
        return answer

    def compare(self, pins: dict[str, dict]) -> None:
        """What is there must be what was acknowledged; what wasn't answered shows now."""
        roots = [pinned.root for pinned in self._contents]
        for name, possible in self.known.items():
            pin = pins.get(name)
            found = None if pin is None else roots.index(pin["pin"]["cid"])
            assert found in possible, f"{name} is {found} and may be {possible}"
            self.known[name] = [found]
            self.ids.pop(name, None)
            if pin is not None:
                self.ids[name] = pin["requestid"]


def _contents(kubo: Kubo, other: Pinnace) -> list[Pinned]:
    """Of all shapes; a third of it is to be had from another pinnace, a third from an origin that isn't there or Kubo."""
    contents: list[Content] = []
    for number in range(4):
        contents += [
            File(f"killed, file {number}", 3 * MIB),
            File(f"killed, large file {number}", 12 * MIB, "--cid-version=1", "--chunker=size-1048576"),
            Directory(f"killed, directory {number}", 300, KIB),
            chain(f"killed, chain {number}", 150),
        ]
    pinned = []
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWGRUhFGu3hKQdVHzPP1LqTiFyBhVgfhZr2VfJvhzm8wDY"
    for number, content in enumerate(contents):
        root = content.add(kubo)
        origins = kubo.multiaddrs
        if number % 3 == 1:
            origins = [nobody, *origins]
        elif number % 3 == 2:
            answer = other.request("POST", "/api/psa/pins", {"cid": root, "name": content.name, "origins": origins})
            assert answer.body is not None, f"POST answered {answer}"
            other.wait_pinned(answer.body["requestid"], 60)
            origins = other.ready["multiaddrs"]
        pinned.append(Pinned(content, root, origins))
    return pinned


def _live_and_die(pinnace: Pinnace, kubo: Kubo, clients: list[Client], chance: random.Random) -> None:
    """One life of the service, with all that goes on meanwhile."""
    with ThreadPoolExecutor(_CLIENTS) as pool:
        work = [pool.submit(client.work) for client in clients]
        # The moment is what is random here: nothing is waited for.
        time.sleep(chance.uniform(0, _LIFE_MAX))
        if chance.randrange(_GARBAGE_GOES) == 0:
            pinnace.run_bytes("gc")
        if chance.randrange(_KUBO_DIES) == 0:
            kubo.kill()
            time.sleep(chance.uniform(0, _LIFE_MAX))
        pinnace.kill()
        for each in work:
            each.result()
    kubo.start()
    pinnace.start()
    pins = {pin["pin"]["name"]: pin for pin in pinnace.pins()}
    for client in clients:
        client.compare(pins)
    known = sum(len(client.ids) for client in clients)
    assert len(pins) == known, f"{len(pins)} pins are there, and {known} were made"


@case(seconds=120 + 5 * _CRASHES)
def kills_at_any_time_with_kubo_as_origin(world: World) -> str:
    """In the end each acknowledged pin is whole and as it was said to be, and nothing else is there."""
    seed = int(os.environ.get("PINNACE_CRASH_SEED") or random.randrange(1 << 32))
    print(f"PINNACE_CRASH_SEED={seed}", flush=True)
    chance = random.Random(seed)
    with (
        world.new_kubo("origin-that-is-killed") as kubo,
        world.new_pinnace("other-origin") as other,
        world.new_pinnace("killed", PINNACE_PINS__RETRY_MIN="1s", PINNACE_PINS__RETRY_MAX="2s") as pinnace,
    ):
        contents = _contents(kubo, other)
        clients = [Client(number, chance.getrandbits(64), pinnace, contents) for number in range(_CLIENTS)]
        for _ in range(_CRASHES):
            _live_and_die(pinnace, kubo, clients, chance)

        def all_pinned() -> bool:
            pins = pinnace.pins()
            failed = [pin for pin in pins if pin["status"] == "failed"]
            assert not failed, f"{len(failed)} failed, such as {failed[0]}"
            return all(pin["status"] == "pinned" for pin in pins)

        wait_until("all pins to be whole", all_pinned, 120)
        pins = pinnace.pins()
        roots = {pin["pin"]["cid"] for pin in pins}
        reader = world.new_kubo("reader-of-what-was-killed")
        for wanted in contents:
            if wanted.root in roots:
                reader.run("dag", "import", input=pinnace.run_bytes("export", wanted.root))
                wanted.content.compare(reader, wanted.root)
        for pin in pins:
            answer = pinnace.request("DELETE", f"/api/psa/pins/{pin['requestid']}")
            assert answer.status == 202, f"DELETE answered {answer}"
        pinnace.run_bytes("gc")
        left = json.loads(pinnace.run_bytes("status", "--json"))["store"]
        assert left["blocks"] == 0, f"after the removal of all pins and gc: {left}"
    return f"{len(pins)} pins of {len(roots)} DAGs are whole after {_CRASHES} kills"
