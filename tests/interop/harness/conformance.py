"""gateway-conformance, the test suite that the specification of the gateways comes with: built once, run as a program.

Its source comes from the Go module, or from a checkout of the same version that `GATEWAY_CONFORMANCE_HOME` names, which is
the variable by which the suite itself finds its fixtures.
"""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import installing

MODULE = "github.com/ipfs/gateway-conformance"
VERSION = "v0.13.2"

# What concerns blocks and CAR files. `path-raw-gateway` is about blocks behind a path.
SPECS = (
    "trustless-block-gateway",
    "trustless-car-gateway",
    "trustless-car-gateway-optional",
    "path-raw-gateway",
)

# Tests of these specifications that can't hold for a gateway that puts nothing together, with the reason: none so far.
EXCLUDED: dict[str, str] = {}

_HOME = "GATEWAY_CONFORMANCE_HOME"
_RESULT = re.compile(r"^ *--- (PASS|FAIL|SKIP): (\S+)")


@dataclass(frozen=True)
class Suite:
    """The built tests, and the directory with their fixtures."""

    command: Path
    home: Path

    def fixtures(self) -> list[Path]:
        """The CAR files that the gateway must hold."""
        return sorted((self.home / "fixtures").rglob("*.car"))

    def run(self, gateway: str) -> tuple[list[str], dict[str, str]]:
        """Runs the tests; returns the names of the top-level ones that passed, and all that failed with what they said."""
        environment = os.environ | {_HOME: str(self.home), "GATEWAY_URL": gateway}
        # Each alone among slashes, as the names of tests are matched.
        skip = ["-test.skip", "|".join(re.escape(name) for name in EXCLUDED)] if EXCLUDED else []
        finished = subprocess.run(
            [str(self.command), f"-specs={','.join(SPECS)}", "-test.v", *skip],
            cwd=self.home / "tests",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        passed, failed = [], {}
        lines = finished.stdout.splitlines()
        for number, line in enumerate(lines):
            if found := _RESULT.match(line):
                result, name = found.groups()
                if result == "PASS" and "/" not in name:
                    passed.append(name)
                elif result == "FAIL":
                    failed[name] = " ".join(each.strip() for each in lines[number + 1 : number + 4])
        if finished.returncode != 0 and not failed:
            failed["the suite"] = finished.stdout[-1500:]
        return passed, failed


def build(target: Path) -> Suite:
    """The suite under `target`, built first if it is missing or of another version."""
    home = _source()
    command = target / "interop" / "gateway-conformance.test"
    stamp = target / "interop" / "gateway-conformance.built-from"
    wanted = f"{VERSION} {home}"
    if not (command.exists() and stamp.exists() and stamp.read_text() == wanted):
        started = time.monotonic()
        command.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["go", "test", "-c", "-o", str(command.resolve()), "./tests"], cwd=home, stdin=subprocess.DEVNULL, check=True
        )
        stamp.write_text(wanted)
        print(f"built gateway-conformance {VERSION} in {time.monotonic() - started:.0f} s", flush=True)
    return Suite(command.resolve(), home)


def _source() -> Path:
    """The directory with the source of the right version."""
    named = os.environ.get(_HOME)
    if named:
        home = Path(named).resolve()
        # The newest entry of its change log is the only place in the source that tells the version.
        newest = re.search(r"^## \[(\d[^]]*)\]", (home / "CHANGELOG.md").read_text(), re.MULTILINE)
        if newest is None or f"v{newest[1]}" != VERSION:
            raise AssertionError(f"{home}, which {_HOME} names, is not {VERSION}")
        return home
    try:
        return installing.go_module(MODULE, VERSION)
    except installing.Unavailable as reason:
        raise installing.Unavailable(f"{reason}; {_HOME} may name a checkout") from reason
