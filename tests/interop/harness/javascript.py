"""The programs under js/, run by node on the packages that their lock file names."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import installing, processes
from .pinnace import Pinnace

_SOURCES = Path(__file__).resolve().parent.parent / "js"
_SUITE = Path("node_modules") / "@ipfs-shipyard" / "pinning-service-compliance" / "dist"

# What the suite's checks find, as it prints it. It leaves out those that can't be made, without a word.
_CHECKS = 9
_AGAINST_THE_SPECIFICATION = "Response object matches api spec schema"
_CHECKS_AGAINST_IT = 4
# What it prints for a check that fails, one that can't be made, and a schema that it doesn't understand.
_PROBLEMS = ("❌", "⚠️", "error\x1b", "WARNING")


@dataclass(frozen=True)
class Packages:
    """Where the packages are, with the programs beside them."""

    directory: Path
    node: str

    def run(self, program: str, pinnace: Pinnace, *preloaded: str, **environment: str) -> str:
        """Runs a program to its end; returns its last line. What it throws is an error."""
        arguments = [f"--import=./{each}" for each in preloaded]
        finished = subprocess.run(
            [self.node, *arguments, program],
            cwd=self.directory,
            env=self._environment(pinnace) | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
        )
        assert finished.returncode == 0, f"{program}: {finished.stderr.strip()[-2500:]}"
        return finished.stdout.strip().rsplit("\n", 1)[-1]

    def run_compliance_suite(self, pinnace: Pinnace, specification: Path) -> None:
        """Runs the suite with a document in the place of the specification's; raises what isn't as it should be."""
        # It writes a report beside itself, named after the host, and adds to one that is there.
        shutil.rmtree(self.directory / _SUITE / "docs", ignore_errors=True)
        endpoint = pinnace.endpoint.rstrip("/")
        finished = subprocess.run(
            [self.node, "--import=./specification.mjs", str(_SUITE / "src" / "index.js"), "-s", endpoint, pinnace.token],
            cwd=self.directory,
            env=self._environment(pinnace) | {"SPECIFICATION": str(specification)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        lines = finished.stdout.splitlines()
        problems = [line for line in lines if any(mark in line for mark in _PROBLEMS)]
        shown = "\n      ".join(problems or lines[-30:])
        report = self.directory / _SUITE / "docs" / "127.0.0.1.json"
        result = json.loads(report.read_text()) if report.exists() else {}
        wanted = {"total": _CHECKS, "passed": _CHECKS, "failed": 0, "success": True}
        assert result == wanted, f"the suite's result is {result}, not {wanted}:\n      {shown}"
        against = sum(_AGAINST_THE_SPECIFICATION in line and "🟢" in line for line in lines)
        assert against == _CHECKS_AGAINST_IT, f"{against} answers were held against the document, not {_CHECKS_AGAINST_IT}:\n      {shown}"
        assert not problems, f"the suite says:\n      {shown}"

    def _environment(self, pinnace: Pinnace) -> dict[str, str]:
        service = {"ENDPOINT": pinnace.endpoint.rstrip("/"), "TOKEN": pinnace.token, "GATEWAY": pinnace.gateway}
        return processes.child_environment(pinnace.directory) | service


def install(target: Path) -> Packages:
    """The packages below `target`, installed first if they are missing or their lock file has changed."""
    node, npm = installing.need("node"), installing.need("npm")
    directory = target / "interop" / "js"
    wanted = ["package.json", "package-lock.json", ".npmrc", "webrtc"]
    # No package's own script is run: what they would download isn't needed.
    retries = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", *retries]
    version = subprocess.run([node, "--version"], capture_output=True, check=True, text=True).stdout.strip()
    installing.install(directory, [_SOURCES / name for name in wanted], [command], version)
    for program in _SOURCES.glob("*.mjs"):
        shutil.copy(program, directory / program.name)
    return Packages(directory, node)
