"""Kubo, the client and peer that users bring: building the version that go.mod names, and running isolated repositories."""

import hashlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from . import processes
from .processes import Process
from .waiting import START_LOOK_SECONDS, wait_until

_MODULE = Path(__file__).resolve().parent.parent / "kubo"
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def build(target: Path) -> Path:
    """The Kubo command under `target`, built first if it is missing or go.mod has changed. Cold, that takes minutes."""
    command = target / "interop" / "ipfs"
    stamp = target / "interop" / "ipfs.built-from"
    wanted = hashlib.sha256((_MODULE / "go.mod").read_bytes() + (_MODULE / "go.sum").read_bytes()).hexdigest()
    if command.exists() and stamp.exists() and stamp.read_text() == wanted:
        return command
    print(f"building Kubo into {command} (minutes, the first time)", flush=True)
    started = time.monotonic()
    command.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["go", "build", "-o", str(command), "github.com/ipfs/kubo/cmd/ipfs"],
        cwd=_MODULE,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    stamp.write_text(wanted)
    print(f"built Kubo in {time.monotonic() - started:.0f} s", flush=True)
    return command


class CommandFailed(Exception):
    """A Kubo command ended with another status than it should."""

    def __init__(self, arguments: tuple[str, ...], status: int, output: str, errors: str) -> None:
        super().__init__(f"`ipfs {' '.join(arguments)}` ended with status {status}: {(errors + output).strip()[-1500:]}")
        self.status = status
        self.errors = errors


class Kubo:
    """One repository, its daemon, and the command line that talks to it."""

    def __init__(
        self,
        command: Path,
        directory: Path,
        name: str,
        announce: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Makes the repository. `announce` replaces the addresses that it tells others."""
        self.name = name
        self.directory = directory / name
        self.repository = self.directory / "repository"
        self.log = self.directory / "kubo.log"
        self.directory.mkdir()
        self.log.touch()
        self._command = str(command)
        own = {"IPFS_PATH": str(self.repository)} | (environment or {})
        self._environment = processes.child_environment(self.directory) | own
        self._daemon: Process | None = None
        self._listening: list[str] = []
        self.run("init", "--profile=test")
        self._configure(announce or [])
        self.peer_id: str = self._read_configuration()["Identity"]["PeerID"]

    def _read_configuration(self) -> dict:
        return json.loads((self.repository / "config").read_text())

    def _configure(self, announce: list[str]) -> None:
        configuration = self._read_configuration()
        self._isolate(configuration, announce)
        self._write_configuration(configuration)

    def _isolate(self, configuration: dict, announce: list[str]) -> None:
        """Nothing but loopback, and nobody but who is dialled by name."""
        configuration["Addresses"].update(
            {
                "Swarm": ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"],
                "Announce": announce,
                "API": "/ip4/127.0.0.1/tcp/0",
                "Gateway": "/ip4/127.0.0.1/tcp/0",
            }
        )
        configuration["Bootstrap"] = []
        configuration["Routing"] = {"Type": "none"}
        configuration["AutoConf"] = {"Enabled": False}
        configuration["AutoTLS"] = {"Enabled": False}
        configuration["AutoNAT"] = {"ServiceMode": "disabled"}
        configuration["Discovery"] = {"MDNS": {"Enabled": False}}
        configuration["HTTPRetrieval"] = {"Enabled": False}
        configuration["Provide"] = {"Enabled": False}
        configuration["Version"] = {"SwarmCheckEnabled": False}
        configuration["Swarm"].update(
            {
                "DisableNatPortMap": True,
                "EnableHolePunching": False,
                "RelayClient": {"Enabled": False},
                "RelayService": {"Enabled": False},
            }
        )

    def _write_configuration(self, configuration: dict) -> None:
        (self.repository / "config").write_text(json.dumps(configuration, indent=2))

    def start(self) -> Self:
        """Starts the daemon and waits for its API. A restart listens on the same ports as before."""
        if self.is_running():
            return self
        (self.repository / "api").unlink(missing_ok=True)
        if self._listening:
            configuration = self._read_configuration()
            configuration["Addresses"]["Swarm"] = self._listening
            self._write_configuration(configuration)
        self._daemon = Process([self._command, "daemon", "--migrate=false"], self._environment, self.log)
        wait_until(f"the API of the Kubo \"{self.name}\"", self._api_answers, seconds=60, every=START_LOOK_SECONDS)
        addresses = self.run("swarm", "addrs", "listen").split()
        self._listening = [address for address in addresses if address.startswith("/ip4/")]
        return self

    def _api_answers(self) -> bool:
        if not self.is_running():
            raise AssertionError(f"the Kubo \"{self.name}\" ended at its start")
        try:
            _ip4, host, _tcp, port = (self.repository / "api").read_text().strip("/\n").split("/")
            request = urllib.request.Request(f"http://{host}:{port}/api/v0/id", method="POST")
            with _NO_PROXY.open(request, timeout=5) as answer:
                return answer.status == 200
        except (OSError, ValueError):
            return False

    @property
    def pid(self) -> int:
        """The process of the daemon, which runs."""
        assert self._daemon is not None
        return self._daemon.pid

    @property
    def multiaddrs(self) -> list[str]:
        """Where peers reach it, while it runs and after a restart."""
        return [f"{address}/p2p/{self.peer_id}" for address in self._listening]

    @property
    def gateway(self) -> str:
        """Where it serves its own gateway."""
        return (self.repository / "gateway").read_text().strip().rstrip("/")

    def is_running(self) -> bool:
        """Whether the daemon runs."""
        return self._daemon is not None and self._daemon.exit_status() is None

    def stop(self) -> None:
        """Stops the daemon in order."""
        if self._daemon is not None:
            self._daemon.terminate()

    def kill(self) -> None:
        """SIGKILL to the daemon."""
        assert self._daemon is not None
        self._daemon.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_unused: object) -> None:
        self.stop()

    def run_bytes(self, *arguments: str, input: bytes = b"", status: int = 0) -> bytes:
        """Runs one command and returns what it printed; any other exit status than `status` is an error."""
        finished = subprocess.run(
            [self._command, *arguments], env=self._environment, input=input, capture_output=True, check=False
        )
        if finished.returncode != status:
            output = finished.stdout[-1500:].decode(errors="replace")
            raise CommandFailed(arguments, finished.returncode, output, finished.stderr.decode(errors="replace"))
        return finished.stdout if status == 0 else finished.stderr

    def run(self, *arguments: str, input: bytes = b"", status: int = 0) -> str:
        """As `run_bytes`, as text; standard error where a failure was expected."""
        return self.run_bytes(*arguments, input=input, status=status).decode()

    @contextmanager
    def stream(self, *arguments: str) -> Iterator[BinaryIO]:
        """The output of one command while it comes. A status other than 0 at its end is an error."""
        child = subprocess.Popen(
            [self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        try:
            yield child.stdout
            status = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        if status != 0:
            raise CommandFailed(arguments, status, "", "")

    def spawn(self, *arguments: str, output: Path) -> Process:
        """Starts one command that goes on by itself, writing to a file; its errors go to the daemon's log."""
        return Process([self._command, *arguments], self._environment, self.log, output)

    def peers(self) -> set[str]:
        """The ids of the connected peers."""
        return {line.rsplit("/", 1)[1] for line in self.run("swarm", "peers").split()}

    def peer_with(self, address: str, peer_id: str) -> None:
        """Puts a peer into the peering list, as the README tells users to, and connects at once.

        The peering service alone takes about 11 s for its first try, and keeps only the address that was added last.
        """
        self.run("swarm", "peering", "add", address)
        self.run("swarm", "connect", address)
        wait_until(f"\"{self.name}\" to be connected with {peer_id}", lambda: peer_id in self.peers())

    def remote_add(self, cid: object, name: str, *options: str, service: str = "pinnace", status: int = 0) -> str:
        """`ipfs pin remote add`, in the foreground unless `--background` is among the options."""
        return self.run("pin", "remote", "add", f"--service={service}", f"--name={name}", *options, str(cid), status=status)

    def remote_ls(self, *options: str, service: str = "pinnace") -> list[dict[str, str]]:
        """`ipfs pin remote ls` as a list of `Status`, `Cid`, `Name`."""
        lines = self.run("--enc=json", "pin", "remote", "ls", f"--service={service}", *options).splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def remote_rm(self, *options: str, service: str = "pinnace") -> None:
        """`ipfs pin remote rm`."""
        self.run("pin", "remote", "rm", f"--service={service}", *options)

