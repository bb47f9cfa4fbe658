"""Child processes with a log each. Whatever was started here is ended here, by its own pid and nothing else."""

import os
import signal
import subprocess
import time
from pathlib import Path

# Every process that was started and not yet seen to end.
_running: list["Process"] = []

# Lines of a log that a failed case shows.
TAIL_LINES = 25


def child_environment(home: Path) -> dict[str, str]:
    """The caller's environment without what would make a run depend on the machine: proxies, own settings, a home."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().endswith("_PROXY") and not key.startswith(("PINNACE_", "IPFS_", "XDG_", "RUST_LOG", "GOLOG_"))
    }
    return kept | {"HOME": str(home), "IPFS_TELEMETRY": "off", "NO_COLOR": "1"}


class Process:
    """One running program; its standard error, and its output unless a file is given, go to the log."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path, output: Path | None = None) -> None:
        self.arguments = arguments
        self.log = log
        with log.open("ab") as log_file, (output or log).open("ab") as output_file:
            log_file.write(f"--- {' '.join(arguments)}\n".encode())
            log_file.flush()
            self._child = subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=log_file,
                start_new_session=True,
            )
        _running.append(self)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""
        status = self._child.poll()
        if status is not None and self in _running:
            _running.remove(self)
        return status

    def terminate(self, seconds: float = 20.0) -> tuple[int | None, float]:
        """SIGTERM. Returns the exit status and how long it took; after `seconds` it is killed and the status is `None`."""
        started = time.monotonic()
        self._signal(signal.SIGTERM)
        try:
            status = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None, time.monotonic() - started
        self.exit_status()
        return status, time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        self._signal(signal.SIGKILL)
        self._child.wait()
        self.exit_status()

    def _signal(self, number: signal.Signals) -> None:
        if self.exit_status() is None:
            self._child.send_signal(number)


def tail_since(log: Path, offset: int) -> list[str]:
    """The last lines of what was written to a log after `offset`."""
    lines = log.read_bytes()[offset:].decode(errors="replace").splitlines()
    return [line[:400] for line in lines if line.strip()][-TAIL_LINES:]


def kill_all() -> None:
    """Ends what is still running."""
    for process in list(_running):
        process.kill()
