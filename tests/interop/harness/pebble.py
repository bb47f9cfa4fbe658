"""Pebble, the small ACME authority by Let's Encrypt for tests: built once, run with a certificate of its own for `localhost`.

Its source, and the certificate with its authority, come from the Go module.
"""

import json
import ssl
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import installing, processes
from .processes import Process
from .waiting import wait_until

MODULE = "github.com/letsencrypt/pebble/v2"
VERSION = "v2.10.1"

# How long its certificates last: pinnace renews them when two thirds of that are over.
VALID_SECONDS = 45


@dataclass(frozen=True)
class Pebble:
    """The command, and the directory with its certificates."""

    command: Path
    home: Path

    @property
    def trusted(self) -> Path:
        """What vouches for the certificate of the authority's own server."""
        return self.home / "test" / "certs" / "pebble.minica.pem"

    @contextmanager
    def running(self, directory: Path, port: int, management_port: int, validated_port: int) -> Iterator[str]:
        """Runs it, with its log in `directory`; gives the URL of its directory. It proves domains on `validated_port`."""
        certificates = self.home / "test" / "certs" / "localhost"
        config = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{management_port}",
            "certificate": str(certificates / "cert.pem"),
            "privateKey": str(certificates / "key.pem"),
            "httpPort": 1,
            "tlsPort": validated_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {"default": {"description": "the only one", "validityPeriod": VALID_SECONDS}},
        }
        directory.mkdir(exist_ok=True)
        path = directory / "pebble.json"
        path.write_text(json.dumps({"pebble": config}))
        # It would refuse some good requests, and wait before it looks, to try clients out.
        environment = processes.child_environment(directory) | {"PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_VA_NOSLEEP": "1"}
        process = Process([str(self.command), "-config", str(path)], environment, directory / "pebble.log")
        try:
            url = f"https://localhost:{port}/dir"
            wait_until("Pebble", lambda: process.exit_status() is not None or self._get(url), 20)
            assert process.exit_status() is None, f"Pebble ended: {processes.tail_since(directory / 'pebble.log', 0)}"
            yield url
        finally:
            process.terminate()

    def root(self, management_port: int) -> str:
        """The certificate that vouches for those that it gives, as PEM. Each run has another."""
        return self._get(f"https://localhost:{management_port}/roots/0").decode()

    def _get(self, url: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.trusted))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(url, timeout=10) as answer:
                return answer.read()
        except OSError:
            return b""


def build(target: Path) -> Pebble:
    """The command under `target`, built first if it is missing or of another version."""
    home = installing.go_module(MODULE, VERSION)
    command = target / "interop" / "pebble"
    stamp = target / "interop" / "pebble.built-from"
    if not (command.exists() and stamp.exists() and stamp.read_text() == VERSION):
        started = time.monotonic()
        command.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["go", "build", "-o", str(command.resolve()), "./cmd/pebble"], cwd=home, stdin=subprocess.DEVNULL, check=True
        )
        stamp.write_text(VERSION)
        print(f"built Pebble {VERSION} in {time.monotonic() - started:.0f} s", flush=True)
    return Pebble(command.resolve(), home)
