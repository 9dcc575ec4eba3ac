"""Settings of all tests: shapes in signatures are enforced, and property tests do not depend on the clock.

The import hook must be in place before the annotated modules are first imported, so it comes first.
"""

from jaxtyping import install_import_hook

install_import_hook(["hm4sr.types", "hm4sr.nn", "hm4sr.models", "hm4sr.evaluation"], "beartype.beartype")

import logging  # noqa: E402
import signal  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("hm4sr", deadline=None, print_blob=True)
settings.load_profile("hm4sr")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a background job of a script begins
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_global_seed():
    """The library draws nothing from the global generator; tests that do are the same in any order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_handler_of_another_test():
    """A command that ran in this process logs to the stdout of that time, which is closed by now."""
    logging.getLogger("hm4sr").handlers.clear()
    yield
    logging.getLogger("hm4sr").handlers.clear()
