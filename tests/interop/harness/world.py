"""What the cases share, made when the first of them needs it: a pinnace, the Kubo that pins, and a third Kubo that reads.

Cases run in order, but any of them may run alone: what it needs pinned is pinned then.
"""

import shutil
import socket
from pathlib import Path

from . import contents
from .contents import Content, File
from .kubo import Kubo
from .pinnace import Pinnace

SERVICE = "pinnace"


class World:
    """Everything that runs, below one temporary directory."""

    def __init__(self, pinnace: Path, kubo: Path, target: Path, directory: Path, keep: bool) -> None:
        self.binary = pinnace
        self.target = target
        self.directory = directory
        self._keep = keep
        self._kubo_command = kubo
        self._kubos: list[Kubo] = []
        self._pinnaces: list[Pinnace] = []
        self._pinnace: Pinnace | None = None
        self._origin: Kubo | None = None
        self._reader: Kubo | None = None
        self._roots: dict[str, str] = {}
        self._pinned: set[str] = set()
        self._not_pinned: set[str] = set()
        self.large_file = File("large file", 256 * contents.MIB)
        self.directory_content = contents.Directory("directory", 10_000, contents.KIB)
        self.chain = contents.chain("chain", 1_000)
        self.file_v0 = File("CIDv0 file", 3 * contents.MIB, "--cid-version=0", "--raw-leaves=false")
        self.raw_block = contents.raw_block("raw block")
        self.dag_json = contents.dag_json_node("dag-json")
        self.identity = contents.identity_children("identity")

    @property
    def pinnace(self) -> Pinnace:
        """The pinnace that most cases share, running."""
        if self._pinnace is None:
            self._pinnace = self.new_pinnace("pinnace")
        return self._pinnace.start()

    @property
    def origin(self) -> Kubo:
        """The Kubo of the user who pins, running, with the shared pinnace as its service "pinnace"."""
        if self._origin is None:
            self._origin = self.new_kubo("origin").start()
            self.add_service(self._origin, self.pinnace)
        return self._origin.start()

    @property
    def reader(self) -> Kubo:
        """A Kubo that has nothing and is connected with the shared pinnace only. The origin is stopped for it."""
        if self._origin is not None:
            self._origin.stop()
        if self._reader is None:
            self._reader = self.new_kubo("reader")
        self._reader.start().peer_with(self.pinnace.multiaddr(), self.pinnace.peer_id)
        return self._reader

    def new_kubo(
        self, name: str, announce: list[str] | None = None, environment: dict[str, str] | None = None
    ) -> Kubo:
        """A Kubo of its own for one case; use it in `with`."""
        kubo = Kubo(self._kubo_command, self.directory, name, announce, environment)
        self._kubos.append(kubo)
        return kubo

    def new_pinnace(self, name: str, http: str = "127.0.0.1:0", **environment: str) -> Pinnace:
        """A pinnace with its own data for one case, and with settings by their variables; use it in `with`."""
        pinnace = Pinnace(self.binary, self.directory, name, http, **environment)
        self._pinnaces.append(pinnace)
        return pinnace

    def add_service(self, kubo: Kubo, pinnace: Pinnace, service: str = SERVICE) -> None:
        """What the README tells a user to do."""
        kubo.run("pin", "remote", "service", "add", service, pinnace.endpoint, pinnace.token)

    def root(self, content: Content) -> str:
        """The root of a content that the origin holds; adds it the first time."""
        if content.name not in self._roots:
            self._roots[content.name] = content.add(self.origin)
        return self._roots[content.name]

    def pin(self, content: Content) -> str:
        """Pins a content with the real command, in the foreground, unless it is already; returns its root."""
        assert content.name not in self._not_pinned, f"\"{content.name}\" could not be pinned before"
        root = self.root(content)
        if content.name not in self._pinned:
            self._not_pinned.add(content.name)
            output = self.origin.remote_add(root, content.name)
            assert "pinned" in output, f"`ipfs pin remote add` printed {output!r}"
            self._not_pinned.remove(content.name)
            self._pinned.add(content.name)
        return root

    def logs(self) -> list[Path]:
        """The logs of whoever has lived in this case, or still lives."""
        return [each.log for each in [*self._pinnaces, *self._kubos]]

    def check_alive(self) -> None:
        """Whatever a case did, the shared pinnace must have survived it."""
        assert self._pinnace is None or not self._pinnace.has_crashed(), "the shared pinnace has ended by itself"

    def tidy_after_case(self) -> None:
        """Forgets those that a case has stopped, and what they left on disk, but for the shared ones."""
        shared = (self._pinnace, self._origin, self._reader)
        for living in (self._kubos, self._pinnaces):
            for each in list(living):
                if not each.is_running() and each not in shared:
                    living.remove(each)
                    if not self._keep:
                        shutil.rmtree(each.directory, ignore_errors=True)


class ClosedPort:
    """A loopback port on which nobody answers, for as long as it is held; use it in `with`."""

    def __enter__(self) -> int:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        return self._socket.getsockname()[1]

    def __exit__(self, *_unused: object) -> None:
        self._socket.close()
