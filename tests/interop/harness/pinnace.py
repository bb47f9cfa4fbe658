"""pinnace as an operator runs it, and its HTTP API for what `ipfs pin remote` can't show or do."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import processes
from .processes import Process
from .waiting import START_LOOK_SECONDS, TookTooLong, wait_until

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SECRETS = ("email", "password", "token")

# Statuses that a pin has while it isn't whole.
UNFINISHED = ("queued", "pinning")
EVERY_STATUS = ("queued", "pinning", "pinned", "failed")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `body` is the decoded JSON, or `None` when there is none."""

    status: int
    body: dict | None


class Pinnace:
    """One data directory and the daemon on it."""

    # Flags that say which network it is in.
    _network = ("--lan",)

    def __init__(self, binary: Path, directory: Path, name: str, http: str = "127.0.0.1:0", **environment: str) -> None:
        self.name = name
        self.directory = directory / name
        self.data = self.directory / "data"
        self.log = self.directory / "pinnace.log"
        self.directory.mkdir()
        self.log.touch()
        self._binary = str(binary)
        self._environment = processes.child_environment(self.directory) | environment
        self._daemon: Process | None = None
        self._starts = 0
        self._http = http
        self._listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
        self.ready: dict = {}
        self.email = self.password = self.token = ""

    def start(self) -> Self:
        """Starts the daemon and waits until it says that all is serving. A restart uses the same ports."""
        if self.is_running():
            return self
        self._starts += 1
        output = self.directory / f"ready-{self._starts}.json"
        arguments = [self._binary, "serve", *self._network, "--data", str(self.data), "--http", self._http]
        for address in self._listen:
            arguments += ["--listen", address]
        self._daemon = Process([*arguments, "--ready-json"], self._environment, self.log, output)
        self.ready = json.loads(wait_until("the ready line of pinnace", lambda: self._ready_line(output), 20, START_LOOK_SECONDS))
        self._check_ready()
        return self

    def _ready_line(self, output: Path) -> str:
        if not self.is_running():
            raise AssertionError("pinnace ended at its start")
        line, end, _rest = output.read_text().partition("\n")
        return line if end else ""

    def _check_ready(self) -> None:
        ready = self.ready
        shown = {key: "(secret)" if key in _SECRETS else value for key, value in ready.items()}
        assert self._daemon is not None and ready["pid"] == self._daemon.pid, f"pid {self._daemon.pid} is not in {shown}"
        assert ready["multiaddrs"], f"no multiaddrs in {shown}"
        for address in ready["multiaddrs"]:
            assert address.endswith(f"/p2p/{ready['peer_id']}"), f"{address} does not end in /p2p/{ready['peer_id']}"
        present = [key for key in _SECRETS if key in ready]
        if self._starts == 1:
            assert present == list(_SECRETS), f"the first start gave only {present} of {_SECRETS}"
            self.email, self.password, self.token = (ready[key] for key in _SECRETS)
        else:
            assert not present, f"start {self._starts} gave {present}, which only the first may"
        if self._http.endswith(":0"):
            self._http = urllib.parse.urlsplit(ready["endpoint"]).netloc
        # Over WebSocket peers come to the HTTP side.
        self._listen = [address.rsplit("/p2p/", 1)[0] for address in ready["multiaddrs"] if "/ws/" not in address]

    @property
    def endpoint(self) -> str:
        """What a client gives to `ipfs pin remote service add`."""
        return self.ready["endpoint"]

    @property
    def gateway(self) -> str:
        """Where what is held is served to everyone."""
        return self.endpoint.split("/api/")[0]

    @property
    def peer_id(self) -> str:
        """The id of the node."""
        return self.ready["peer_id"]

    @property
    def pid(self) -> int:
        """The process of the daemon, which runs."""
        return self.ready["pid"]

    def multiaddr(self, transport: str = "/tcp/") -> str:
        """Where peers reach the node over TCP, or over what is named."""
        return next(address for address in self.ready["multiaddrs"] if transport in address)

    def run_bytes(self, *arguments: str, input: bytes = b"", status: int = 0) -> bytes:
        """Runs one command on the data directory and returns what it printed, or its error where it should fail."""
        command = [self._binary, *arguments, "--data", str(self.data)]
        finished = subprocess.run(command, env=self._environment, input=input, capture_output=True, check=False)
        assert finished.returncode == status, f"`pinnace {' '.join(arguments)}` ended with {finished.returncode}: {finished.stderr}"
        return finished.stdout if status == 0 else finished.stderr

    def is_running(self) -> bool:
        """Whether the daemon runs."""
        return self._daemon is not None and self._daemon.exit_status() is None

    def has_crashed(self) -> bool:
        """Whether the daemon was started and is gone, though nobody here ended it."""
        return self._daemon is not None and self._daemon.exit_status() is not None

    def terminate(self) -> tuple[int | None, float]:
        """SIGTERM; the exit status (`None` if it had to be killed) and the seconds that it took."""
        assert self._daemon is not None
        ended = self._daemon.terminate()
        self._daemon = None
        return ended

    def kill(self) -> None:
        """SIGKILL."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_unused: object) -> None:
        if self._daemon is not None:
            self.terminate()

    def request(self, method: str, path: str, body: object = None, token: str | None = None) -> Answer:
        """One request to a path below the server's root; `token` replaces that of the first start, empty for none."""
        request = urllib.request.Request(urllib.parse.urljoin(self.endpoint, path), method=method)
        bearer = self.token if token is None else token
        if bearer:
            request.add_header("Authorization", f"Bearer {bearer}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with _NO_PROXY.open(request, timeout=30) as answer:
                return Answer(answer.status, _decoded(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _decoded(error.read()))

    def document(self) -> dict:
        """What it says of its own API."""
        answer = self.request("GET", "/api/openapi.json", token="")
        assert answer.status == 200 and answer.body is not None, f"the OpenAPI document: {answer}"
        return answer.body

    def pins(self, **filters: str) -> list[dict]:
        """The pins that match, of every status unless `status` is given; at most 1,000."""
        query = urllib.parse.urlencode({"status": ",".join(EVERY_STATUS), "limit": "1000"} | filters)
        answer = self.request("GET", f"/api/psa/pins?{query}")
        assert answer.status == 200 and answer.body is not None, f"listing pins answered {answer}"
        assert answer.body["count"] == len(answer.body["results"]), f"count is wrong in {answer.body}"
        return answer.body["results"]

    def pin(self, requestid: str) -> dict:
        """One pin."""
        answer = self.request("GET", f"/api/psa/pins/{requestid}")
        assert answer.status == 200 and answer.body is not None, f"GET of pin {requestid} answered {answer}"
        return answer.body

    def pin_named(self, name: str) -> dict:
        """The only pin of this name."""
        found = self.pins(name=name)
        assert len(found) == 1, f"{len(found)} pins are named {name}: {found}"
        return found[0]

    def wait_pinned(self, requestid: str, seconds: float) -> dict:
        """Waits until a pin is whole; a pin that fails is an error at once."""
        pin: dict = {}

        def is_pinned() -> bool:
            pin.update(self.pin(requestid))
            assert pin["status"] != "failed", f"the pin failed: {pin}"
            return pin["status"] == "pinned"

        try:
            wait_until("the pin", is_pinned, seconds)
        except TookTooLong as error:
            raise TookTooLong(f"not pinned after {seconds:.0f} s: {pin}") from error
        return pin

    def wait_midway(self, requestid: str, bytes_at_least: int, seconds: float = 60) -> dict:
        """Waits until a running pin has stored that much, for what wants to interrupt it."""
        pin: dict = {}

        def is_midway() -> bool:
            pin.update(self.pin(requestid))
            assert pin["status"] in UNFINISHED, f"the pin ended before it could be interrupted: {pin}"
            return int(pin.get("info", {}).get("raw_size", "0")) >= bytes_at_least

        try:
            wait_until("the pin to be midway", is_midway, seconds, every=0.01)
        except TookTooLong as error:
            raise TookTooLong(f"not {bytes_at_least} bytes after {seconds:.0f} s: {pin}") from error
        return pin


def _decoded(body: bytes) -> dict | None:
    return json.loads(body) if body else None
