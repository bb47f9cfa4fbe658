"""Packages of other languages, installed once below the target directory and used again while nothing about them has changed."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

# What npm and pip say when nobody could be asked. Any other failure is one of ours: a wrong version, a wrong checksum.
_NO_NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|FETCH_ERROR"
    r"|Failed to establish a new connection|Temporary failure in name resolution|Name or service not known"
    r"|Network is unreachable|Connection refused|ConnectTimeoutError|ReadTimeoutError|Tunnel connection failed"
)


class Unavailable(Exception):
    """A program is missing, or its packages can't be downloaded because there is no network."""


def need(command: str) -> str:
    """The path of a program that the machine must have."""
    found = shutil.which(command)
    if found is None:
        raise Unavailable(f"there is no {command} on this machine")
    return found


def install(directory: Path, sources: list[Path], commands: list[list[str]], made_for: str) -> None:
    """Runs the commands in `directory`, which begins with copies of `sources`.

    They aren't run if they ran before for the same sources and for the same version of the language, `made_for`.
    """
    wanted = f"{_digest(sources)} {made_for}"
    stamp = directory / "installed-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing into {directory}", flush=True)
    started = time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for source in sources:
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, directory / source.name)
    for command in commands:
        _run(command, directory)
    stamp.write_text(wanted)
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)


def go_module(module: str, version: str) -> Path:
    """The directory with the source of a Go module."""
    downloaded = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        cwd=Path(__file__).resolve().parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    try:
        answer = json.loads(downloaded.stdout or "{}")
    except ValueError:
        answer = {}
    if downloaded.returncode != 0 or "Dir" not in answer:
        reason = answer.get("Error") or downloaded.stderr
        raise Unavailable(f"{module} {version} can't be downloaded ({' '.join(reason.split())[:200]})")
    return Path(answer["Dir"])


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file():
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], directory: Path) -> None:
    finished = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"NO_COLOR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if finished.returncode == 0:
        return
    said = " ".join(finished.stdout.split())
    if found := _NO_NETWORK.search(said):
        reason = said[max(0, found.start() - 100) : found.end() + 100]
        raise Unavailable(f"`{Path(command[0]).name}` can't download the packages: … {reason} …")
    raise AssertionError(f"`{' '.join(command)}` ended with status {finished.returncode}: {said[-1500:]}")
