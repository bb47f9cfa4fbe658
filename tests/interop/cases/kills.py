"""A pinnace that is killed again and again while clients make, replace and remove pins, with Kubo and another pinnace as origins.

`PINNACE_CRASHES=200 tests/interop/run --only 'kills-*'` kills it more often; `PINNACE_CRASH_SEED` repeats the choices of a run (what they
meet depends on the moment).
"""

import http.client
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from harness.contents import KIB, MIB, Content, Directory, File, chain
from harness.kubo import Kubo
from harness.pinnace import UNFINISHED, Answer, Pinnace
from harness.runner import case
from harness.waiting import wait_until
from harness.world import World

_CRASHES = int(os.environ.get("PINNACE_CRASHES", "20"))

# Clients that send requests at the same time, and pins that each keeps at most.
_CLIENTS, _PINS_MAX = 3, 8

# DAGs that about half of the pins share. The others are of all that were made, and each life adds one: what is pinned again was often
# collected as garbage meanwhile, so there is always something to fetch.
_SHARED = 8

# The longest that anything is left alone before the next is killed, in seconds.
_LEFT_ALONE_MAX = 0.5

# Kubo is killed in one life of so many, and garbage is collected in about one of so many.
_KUBO_DIES, _GARBAGE_GOES = 3, 3

# An origin that isn't there.
_NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWGRUhFGu3hKQdVHzPP1LqTiFyBhVgfhZr2VfJvhzm8wDY"


@dataclass
class Held:
    """What can be pinned, and who has it."""

    content: Content
    root: str
    origins: list[str]


class Origins:
    """Kubo, and another pinnace that has some of what Kubo has."""

    def __init__(self, kubo: Kubo, other: Pinnace) -> None:
        self.kubo, self._other = kubo, other
        self.held: dict[str, Held] = {}

    def new(self, shape: int, source: int) -> Held:
        """A DAG that was not there before, of one shape of four, from one source of three."""
        number = len(self.held)
        content: Content = (
            File(f"killed, file {number}", 2 * MIB),
            File(f"killed, large file {number}", 8 * MIB, "--cid-version=1", "--chunker=size-1048576"),
            Directory(f"killed, directory {number}", 200, KIB),
            chain(f"killed, chain {number}", 200),
        )[shape]
        root = content.add(self.kubo)
        origins = _over_tcp(self.kubo.multiaddrs)
        if source == 1:
            origins = [_NOBODY, *origins]
        elif source == 2:
            self._other.run_bytes("import", "-", input=self.kubo.run_bytes("dag", "export", "--progress=false", root))
            origins = _over_tcp(self._other.ready["multiaddrs"])
        self.held[root] = Held(content, root, origins)
        return self.held[root]


def _over_tcp(addresses: list[str]) -> list[str]:
    """A QUIC connection is taken for alive for up to half a minute after its other end was killed: most of the time would be waiting."""
    return [address for address in addresses if "/tcp/" in address]


class Client:
    """Sends requests, one after the other, and knows which pins it has made."""

    def __init__(self, number: int, seed: int, pinnace: Pinnace, dying: Event, origins: Origins) -> None:
        self._number, self._random, self._made = number, random.Random(seed), 0
        self._pinnace, self._dying, self._origins = pinnace, dying, origins
        # The root under each name, if all requests that weren't answered did nothing; and if the last of them, which is the only one
        # since the last comparison, did what it should.
        self._known: dict[str, str] = {}
        self._possible: dict[str, str] = {}
        # The ids of the pins that are known to be there, by name, and of those that were seen to be whole.
        self._ids: dict[str, str] = {}
        self._whole: set[str] = set()
        # What to pin before anything that may have been pinned already.
        self.new: list[Held] = []
        # Changes that weren't answered, and how many of them were made nevertheless.
        self.unanswered = self.made_unanswered = 0

    def work(self) -> None:
        """Goes on until the service dies."""
        while self._act():
            pass

    def _act(self) -> bool:
        old = self._random.choice([*self._known, None])
        kind = self._random.randrange(8)
        if old is not None and kind == 0:
            return self._remove(old)
        if old is not None and kind == 1:
            return self._make(replaced=old)
        if len(self._known) < _PINS_MAX and kind < 6:
            return self._make()
        return self._look()

    def _remove(self, old: str) -> bool:
        self._possible = {name: root for name, root in self._known.items() if name != old}
        return self._change("DELETE", f"/api/psa/pins/{self._ids[old]}") is not None

    def _make(self, replaced: str | None = None) -> bool:
        """Asks for a pin under a name that was never used, beside what is there or in the place of one."""
        wanted = self.new.pop() if self.new else self._some()
        name = f"{self._number}-{self._made}"
        self._made += 1
        self._possible = {each: root for each, root in self._known.items() if each != replaced} | {name: wanted.root}
        path = "/api/psa/pins" if replaced is None else f"/api/psa/pins/{self._ids[replaced]}"
        answer = self._change("POST", path, {"cid": wanted.root, "name": name, "origins": wanted.origins})
        if answer is None:
            return False
        assert answer.body is not None
        self._ids[name] = answer.body["requestid"]
        return True

    def _some(self) -> Held:
        held = [*self._origins.held.values()]
        return self._random.choice(held[:_SHARED] if self._random.randrange(2) == 0 else held)

    def _look(self) -> bool:
        answer = self._send("GET", "/api/psa/pins?status=pinned&limit=1000")
        if answer is None or answer.body is None:
            return False
        self._whole.update(pin["requestid"] for pin in answer.body["results"])
        return True

    def _change(self, method: str, path: str, body: object = None) -> Answer | None:
        """Sends what leads to what is possible, which is known to be so once it was answered."""
        answer = self._send(method, path, body)
        if answer is None:
            self.unanswered += 1
        else:
            self._known = self._possible
        return answer

    def _send(self, method: str, path: str, body: object = None) -> Answer | None:
        """The answer, which has to be a good one; `None` when the service died first."""
        try:
            answer = self._pinnace.request(method, path, body)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            assert self._dying.is_set(), f"{method} {path} was not answered by a service that nobody had killed: {error!r}"
            return None
        if answer.body is None and method != "DELETE":
            assert self._dying.is_set(), f"{method} {path} answered {answer}"
            return None
        assert answer.status in (200, 202), f"{method} {path} answered {answer}"
        return answer

    def compare(self, pins: list[dict]) -> None:
        """What is there must be what was acknowledged; whether it is also what wasn't answered shows now."""
        mine = [pin for pin in pins if pin["pin"]["name"].startswith(f"{self._number}-")]
        found = {pin["pin"]["name"]: pin["pin"]["cid"] for pin in mine}
        assert len(found) == len(mine), f"client {self._number} has pins twice: {mine}"
        assert found in (self._known, self._possible), (
            f"client {self._number} has {found}, made {self._known}, and may have {self._possible}"
        )
        for pin in mine:
            name, requestid = pin["pin"]["name"], pin["requestid"]
            assert self._ids.get(name, requestid) == requestid, f"{name} had the id {self._ids[name]}: {pin}"
            assert pin["status"] == "pinned" or requestid not in self._whole, f"{name} was whole: {pin}"
        if found != self._known:
            self.made_unanswered += 1
        self._known = self._possible = found
        self._ids = {pin["pin"]["name"]: pin["requestid"] for pin in mine}


@dataclass
class Trial:
    """The service that dies, all who take part, and what they met."""

    pinnace: Pinnace
    origins: Origins
    chance: random.Random
    clients: list[Client]
    # Set just before the service is killed.
    dying: Event
    # Kills of the service that left pins to be finished.
    interrupting: int = 0
    # Kills of Kubo, in all and while a pin was fetched from it.
    kubo_kills: int = 0
    kubo_interrupting: int = 0

    def live_and_die(self, kubo_dies: bool) -> None:
        """One life of the service, with all that goes on meanwhile, and the start after it."""
        self.chance.choice(self.clients).new.append(self.origins.new(self.chance.randrange(4), self.chance.randrange(3)))
        self.dying.clear()
        with ThreadPoolExecutor(_CLIENTS + 1) as pool:
            work = [pool.submit(client.work) for client in self.clients]
            if self.chance.randrange(_GARBAGE_GOES) == 0:
                work.append(pool.submit(self._collect_garbage, self._moment()))
            try:
                # The moment is what is random here: nothing is waited for.
                time.sleep(self._moment())
                if kubo_dies:
                    self._kill_kubo()
            finally:
                self.dying.set()
                self.pinnace.kill()
            for each in work:
                each.result()
        # Whatever is still to be fetched from Kubo may have to wait for it.
        for each in self.chance.sample([self.pinnace, self.origins.kubo], 2):
            each.start()
        self.interrupting += any(pin["status"] in UNFINISHED for pin in self.compared_pins())

    def _moment(self) -> float:
        return self.chance.uniform(0, _LEFT_ALONE_MAX)

    def _collect_garbage(self, seconds: float) -> None:
        """Collects garbage after so many seconds, at the end of which the service may die as well."""
        if self.dying.wait(seconds):
            return
        try:
            self.pinnace.run_bytes("gc")
        except AssertionError:
            if not self.dying.is_set():
                raise

    def _kill_kubo(self) -> None:
        """Kills Kubo, which comes back before the service dies, or stays away."""
        kubo = self.origins.kubo
        kubo.kill()
        self.kubo_kills += 1
        self.kubo_interrupting += any(
            pin["status"] in UNFINISHED and pin["pin"]["origins"][-1] in kubo.multiaddrs for pin in self.pinnace.pins()
        )
        if self.chance.randrange(2) == 0:
            kubo.start()
        time.sleep(self._moment())

    def compared_pins(self) -> list[dict]:
        """All pins, each of which its client has made; and no client misses any."""
        pins = self.pinnace.pins()
        for client in self.clients:
            client.compare(pins)
        strange = [pin for pin in pins if pin["pin"]["name"].partition("-")[0] not in map(str, range(_CLIENTS))]
        assert not strange, f"nobody made {strange}"
        return pins

    def all_pinned(self) -> bool:
        """Whether all pins are whole, of which none may fail."""
        pins = self.pinnace.pins()
        failed = [pin for pin in pins if pin["status"] == "failed"]
        assert not failed, f"{len(failed)} failed, such as {failed[0]}"
        return all(pin["status"] == "pinned" for pin in pins)


@case(seconds=120 + 5 * _CRASHES)
def kills_with_kubo_and_pinnace_as_origins(world: World) -> str:
    """In the end each acknowledged pin is whole and as it was said to be, and nothing else is there."""
    seed = int(os.environ.get("PINNACE_CRASH_SEED") or random.randrange(1 << 32))
    print(f"PINNACE_CRASH_SEED={seed}", flush=True)
    chance = random.Random(seed)
    with (
        world.new_kubo("origin-that-is-killed") as kubo,
        world.new_pinnace("other-origin") as other,
        world.new_pinnace("killed", PINNACE_PINS__RETRY_MIN="1s", PINNACE_PINS__RETRY_MAX="2s") as pinnace,
    ):
        origins, dying = Origins(kubo, other), Event()
        for number in range(_SHARED):
            origins.new(number % 4, number % 3)
        clients = [Client(number, chance.getrandbits(64), pinnace, dying, origins) for number in range(_CLIENTS)]
        trial = Trial(pinnace, origins, chance, clients, dying)
        kubo_dies = set(chance.sample(range(_CRASHES), -(-_CRASHES // _KUBO_DIES)))
        for number in range(_CRASHES):
            trial.live_and_die(number in kubo_dies)

        wait_until("all pins to be whole", trial.all_pinned, 120)
        pins = trial.compared_pins()
        roots = {pin["pin"]["cid"] for pin in pins}
        reader = world.new_kubo("reader-of-what-was-killed")
        for root in roots:
            reader.run("dag", "import", input=pinnace.run_bytes("export", root))
            origins.held[root].content.compare(reader, root)
        for pin in pins:
            answer = pinnace.request("DELETE", f"/api/psa/pins/{pin['requestid']}")
            assert answer.status == 202, f"DELETE answered {answer}"
        assert not pinnace.pins(), f"after the removal of all pins: {pinnace.pins()}"
        pinnace.run_bytes("gc")
        left = json.loads(pinnace.run_bytes("status", "--json"))["store"]
        assert left["blocks"] == 0, f"after the removal of all pins and gc: {left}"
    assert trial.interrupting, "no pin was unfinished at any kill, so this shows nothing"
    unanswered, made = sum(each.unanswered for each in clients), sum(each.made_unanswered for each in clients)
    return (
        f"{len(pins)} pins of {len(roots)} DAGs are whole after {_CRASHES} kills, {trial.interrupting} amid a pin; "
        f"{trial.kubo_interrupting} of {trial.kubo_kills} kills of Kubo amid one from it; "
        f"{made} of {unanswered} changes without an answer were made"
    )
