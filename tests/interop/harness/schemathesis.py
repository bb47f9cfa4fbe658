"""schemathesis, which makes requests from a description of an API and compares the answers with it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import installing, processes
from .pinnace import Pinnace

_SOURCES = Path(__file__).resolve().parent.parent / "schemathesis"


@dataclass(frozen=True)
class Outcome:
    """How much was tried."""

    operations: int
    requests: int
    # Operations, as "METHOD path", of which not one request was accepted, so that no answer but a refusal was seen.
    never_accepted: set[str]
    # Whether its login still authorises requests of an admin.
    ends_logged_in: bool


@dataclass(frozen=True)
class Schemathesis:
    """The installed command."""

    command: Path

    def run(self, pinnace: Pinnace, document: str, configuration: str, *options: str) -> Outcome:
        """Tests every operation of a document (a URL, or a file) with a login of its own; raises what it finds.

        The configuration is one of those under schemathesis/.
        """
        login = pinnace.request("POST", "/api/auth/login", {"email": pinnace.email, "password": pinnace.password}, token="")
        assert login.status == 200 and login.body is not None, f"{login}"
        token = login.body["access_token"]
        me = pinnace.request("GET", "/api/auth/me", token=token)
        assert me.status == 200 and me.body is not None, f"{me}"
        report = pinnace.directory / "schemathesis.json"
        environment = processes.child_environment(pinnace.directory) | {
            "OWN_EMAIL": pinnace.email,
            "OWN_PASSWORD": pinnace.password,
            "OWN_TOKEN": token,
            "OWN_TOKEN_ID": me.body["token"]["id"],
            "SERVICE": pinnace.gateway,
            "PYTHONPATH": str(_SOURCES),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        finished = subprocess.run(
            [
                *(str(self.command), "--config-file", str(_SOURCES / configuration), "--no-color", "run", document),
                *("--header", f"Authorization: Bearer {token}", "--checks", "all", "--workers", "1"),
                *("--report", "json", "--report-json-path", str(report), *options),
            ],
            cwd=pinnace.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        found = finished.stdout[finished.stdout.find("=== FAILURES") :] if "=== FAILURES" in finished.stdout else finished.stdout
        assert finished.returncode == 0, f"schemathesis ended with status {finished.returncode}:\n{found[:20_000]}"
        result = json.loads(report.read_text())
        operations = result["operations"]
        assert result["complete"] and not result["errors"] and not result["failures"], f"{result}"
        assert 0 < operations["tested"] == operations["selected"], f"operations were left out: {operations}"
        rates = result["valid_rates"]
        never = {name for name, phases in rates.items() if not any(each["accepted"] for each in phases.values())}
        me = pinnace.request("GET", "/api/auth/me", token=token)
        logged_in = me.status == 200 and me.body is not None and me.body["role"] == "admin"
        return Outcome(operations["tested"], result["test_cases"]["generated"], never, logged_in)


def install(target: Path) -> Schemathesis:
    """The command below `target`, installed first if it is missing or the versions have changed."""
    directory = target / "interop" / "schemathesis"
    pip = [str(directory / "venv" / "bin" / "pip"), "install", "--quiet", "--retries=2", "--only-binary=:all:", "--no-deps"]
    commands = [[sys.executable, "-m", "venv", "venv"], [*pip, "--requirement", "requirements.txt"]]
    installing.install(directory, [_SOURCES / "requirements.txt"], commands, sys.version)
    return Schemathesis(directory / "venv" / "bin" / "st")
