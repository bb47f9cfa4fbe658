"""`pinnace demo`, the first thing that a newcomer runs."""

import subprocess

from harness import processes
from harness.runner import case
from harness.world import World


@case(seconds=120)
def demo(world: World) -> None:
    directory = world.directory / "demo"
    directory.mkdir()
    environment = processes.child_environment(directory) | {"TMPDIR": str(directory)}
    finished = subprocess.run(
        [world.binary, "demo", "--size", "64MiB"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = f"{finished.stdout}\n{finished.stderr}".strip()
    assert finished.returncode == 0, f"`pinnace demo` ended with status {finished.returncode}: {printed[-2000:]}"
    left = [str(entry.relative_to(directory)) for entry in directory.rglob("*")]
    assert not left, f"`pinnace demo` left {left}"
