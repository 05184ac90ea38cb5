"""What every test starts from."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is; pytest's own timeout ends what hangs.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("suite")

# Whoever runs the suite in the background may have made it ignore Ctrl-C, and what it starts
# inherits that; here programs must heed it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# While the tests' own process has servers of gRPC, what it forks runs gRPC's threads until a
# program is executed, and now and then ends for want of descriptors that Python has closed.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Builds keep what they made in a cache of the run's own, and not in the user's."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before
