"""The compliance suite of the Pinning Services API: all of its nine checks, and none left out."""

import json
import os
from pathlib import Path

from harness import javascript
from harness.runner import NotRun, case
from harness.world import World

# Names the specification's own `ipfs-pinning-service.yaml`, which isn't ours to ship.
SPECIFICATION_VARIABLE = "PINNING_SPECIFICATION"

# The suite's parser knows no newer one; what it reads of the document, the schemas, is the same in both.
_VERSION_OF_THE_SUITE = "3.0.3"


@case(seconds=400)
def compliance_suite(world: World) -> str:
    """With our own document in the place of the specification's, so that the two are held against each other."""
    packages = javascript.install(world.target)
    with world.new_pinnace("pinnace-for-compliance") as pinnace:
        document = pinnace.document() | {"openapi": _VERSION_OF_THE_SUITE}
        specification = pinnace.directory / "specification.json"
        specification.write_text(json.dumps(document))
        packages.run_compliance_suite(pinnace, specification)
    return "9 checks"


@case(seconds=400)
def compliance_suite_with_the_specification(world: World) -> str:
    packages = javascript.install(world.target)
    named = os.environ.get(SPECIFICATION_VARIABLE)
    if not named:
        raise NotRun(f"{SPECIFICATION_VARIABLE} names no ipfs-pinning-service.yaml")
    with world.new_pinnace("pinnace-for-compliance-again") as pinnace:
        packages.run_compliance_suite(pinnace, Path(named).resolve())
    return "9 checks"
