"""The cases, in the order in which they run: what one pins, later ones list, remove and read."""

from . import pinning  # noqa: F401
from . import listing  # noqa: F401
from . import accounts  # noqa: F401
from . import reading  # noqa: F401
from . import faults  # noqa: F401
from . import kills  # noqa: F401
from . import car  # noqa: F401
from . import gateway  # noqa: F401
from . import acme  # noqa: F401
from . import mfs  # noqa: F401
from . import clients  # noqa: F401
from . import compliance  # noqa: F401
from . import document  # noqa: F401
from . import demo  # noqa: F401
