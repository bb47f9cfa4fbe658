"""An internet of one machine: a DHT of real Kubo nodes, and whoever a case adds."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from harness.kubo import Kubo
from harness.pinnace import Answer, Pinnace
from harness.processes import Process
from harness.waiting import wait_until
from homes import Home, check_home, new_home
from places import Backbone, Place

# The port of every node, and of the router that it is as well.
_PORT, _ROUTER_PORT = 4001, 8080


class PublicKubo(Kubo):
    """A Kubo at a public address that takes part in the DHT."""

    def __init__(
        self, command: Path, directory: Path, name: str, where: tuple[Place, str], role: str, bootstrap: list[str]
    ) -> None:
        self._place, self._address = where
        self._role, self._bootstrap = role, bootstrap
        super().__init__(command, directory, name)

    def start(self) -> Self:
        with self._place.inside():
            super().start()
        return self

    def run_bytes(self, *arguments: str, input: bytes = b"", status: int = 0) -> bytes:
        with self._place.inside():
            return super().run_bytes(*arguments, input=input, status=status)

    @contextmanager
    def stream(self, *arguments: str) -> Iterator[BinaryIO]:
        with self._place.inside(), super().stream(*arguments) as output:
            yield output

    def spawn(self, *arguments: str, output: Path) -> Process:
        with self._place.inside():
            return super().spawn(*arguments, output=output)

    def _isolate(self, configuration: dict, announce: list[str]) -> None:
        super()._isolate(configuration, announce)
        configuration["Addresses"]["Swarm"] = [
            f"/ip4/{self._address}/tcp/{_PORT}",
            f"/ip4/{self._address}/udp/{_PORT}/quic-v1",
        ]
        # Whoever knows it may ask it who has something.
        configuration["Addresses"]["Gateway"] = [f"/ip4/{self._address}/tcp/{_ROUTER_PORT}"]
        configuration["Bootstrap"] = self._bootstrap
        configuration["Routing"] = {"Type": self._role}
        configuration["Provide"] = {"Enabled": True}
        # Servers test addresses for others and relay for them, as those of the public network do once they know that they are reached.
        configuration["AutoNAT"] = {"ServiceMode": "enabled"}
        configuration["Swarm"]["EnableHolePunching"] = True
        configuration["Swarm"]["RelayClient"] = {"Enabled": True}
        configuration["Swarm"]["RelayService"] = {"Enabled": True}
        if self._role == "dhtserver":
            configuration["Internal"] = {"Libp2pForceReachability": "public"}

    @property
    def multiaddr(self) -> str:
        """Where others reach it."""
        return f"/ip4/{self._address}/tcp/{_PORT}/p2p/{self.peer_id}"

    @property
    def router(self) -> str:
        """Its URL for delegated routing."""
        return f"http://{self._address}:{_ROUTER_PORT}"

    def has_servers(self, count: int) -> bool:
        """Whether it knows so many servers of the DHT."""
        table = self.run("stats", "dht", "wan")
        return sum("Bucket" not in line and "12D3Koo" in line for line in table.splitlines()) >= count


class PublicPinnace(Pinnace):
    """A pinnace at a public address."""

    def __init__(
        self,
        binary: Path,
        directory: Path,
        name: str,
        where: tuple[Place, str],
        bootstrap: list[str],
        is_named: bool = True,
        **environment: str,
    ) -> None:
        self._place, address = where
        own = [f"/ip4/{address}/tcp/{_PORT}", f"/ip4/{address}/udp/{_PORT}/quic-v1"]
        environment = {"PINNACE_NETWORK__BOOTSTRAP": ",".join(bootstrap)} | environment
        super().__init__(binary, directory, name, **environment)
        self._listen = self.own_addresses = own
        self._network = tuple(part for each in own for part in ("--external", each)) if is_named else ()

    def with_dht(self) -> None:
        """From its next start on it takes part in the DHT, if it didn't."""
        self._environment.pop("PINNACE_NETWORK__DHT", None)

    def forget_bootstrap(self) -> None:
        """From its next start on it has nobody to enter the DHT by but whom it knew before."""
        self._environment["PINNACE_NETWORK__BOOTSTRAP"] = ""

    def start(self) -> Self:
        with self._place.inside():
            super().start()
        return self

    def request(self, method: str, path: str, body: object = None, token: str | None = None) -> Answer:
        with self._place.inside():
            return super().request(method, path, body, token)


class Internet:
    """Everything that runs, below one temporary directory: a DHT of Kubo nodes, and whoever a case adds."""

    def __init__(self, pinnace: Path, kubo: Path, directory: Path, servers: int) -> None:
        self._binary, self._kubo, self.directory = pinnace, kubo, directory
        self._extra: list[Kubo | Pinnace] = []
        self._pinnace: PublicPinnace | None = None
        self._backbone = Backbone()
        self.servers: list[PublicKubo] = []
        for number in range(servers):
            first = [self.servers[0].multiaddr] if self.servers else []
            self.servers.append(PublicKubo(kubo, directory, f"server-{number}", self._backbone.new_place(), "dhtserver", first))
        self._bootstrap = [server.multiaddr for server in self.servers[:3]]
        self.servers[0].start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(PublicKubo.start, self.servers[1:]))
        wanted = min(servers - 1, 15)
        for server in self.servers:
            wait_until(f"{server.name} to know {wanted} others", lambda server=server: server.has_servers(wanted), 120, every=0.5)

    def new_kubo(self, name: str, role: str = "dhtclient") -> PublicKubo:
        """A Kubo for one case, which knows of nobody but the servers that all know; use it in `with`."""
        kubo = PublicKubo(self._kubo, self.directory, name, self._backbone.new_place(), role, self._bootstrap)
        self._extra.append(kubo)
        return kubo

    def new_pinnace(self, name: str, is_named: bool = True, **environment: str) -> PublicPinnace:
        """A pinnace for one case, to which its addresses are named unless it has to find out itself; use it in `with`."""
        where = self._backbone.new_place()
        pinnace = PublicPinnace(self._binary, self.directory, name, where, self._bootstrap, is_named, **environment)
        self._extra.append(pinnace)
        return pinnace

    def new_pinnace_at_home(self, name: str, **environment: str) -> tuple[PublicPinnace, Home]:
        """The same behind a router that lets nobody in, and where that is."""
        home = new_home(self._backbone)
        self.check_home(home)
        environment = {"PINNACE_NETWORK__PROFILE": "public"} | environment
        where = (home.machine, home.own)
        pinnace = PublicPinnace(self._binary, self.directory, name, where, self._bootstrap, is_named=False, **environment)
        self._extra.append(pinnace)
        return pinnace, home

    def check_home(self, home: Home) -> None:
        """That a router does what it should with what it wasn't asked to forward."""
        check_home(self._backbone, home)

    @property
    def pinnace(self) -> PublicPinnace:
        """The pinnace that cases share, running."""
        if self._pinnace is None:
            self._pinnace = self.new_pinnace("pinnace")
        return self._pinnace.start()

    def logs(self) -> list[Path]:
        """The logs of those whom a case has started."""
        return [each.log for each in self._extra]

    def check_alive(self) -> None:
        """Whatever a case did, the shared pinnace must have survived it."""
        assert self._pinnace is None or not self._pinnace.has_crashed(), "the shared pinnace has ended by itself"

    def tidy_after_case(self) -> None:
        """Forgets those that a case has stopped, and what they left on disk, but for the shared pinnace."""
        for each in list(self._extra):
            if each is not self._pinnace and not each.is_running():
                self._extra.remove(each)
                shutil.rmtree(each.directory, ignore_errors=True)
