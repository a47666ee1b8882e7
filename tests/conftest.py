"""What every test shares: options, one thread per worker, a cache of the run's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Two workers with two threads each on two cores wait for one another; and one thread makes
# floating-point sums repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MIRAS_CACHE_DIR", str(ROOT / ".pytest_cache" / "miras"))
os.environ.setdefault("MPLBACKEND", "Agg")

# A busy machine is slow; that is no property of what is tested.
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("ours")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="also run the tests that need a GPU")
    parser.addoption("--update-golden", action="store_true", help="rewrite expected texts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU and --gpu")
    config.addinivalue_line("markers", "slow: more than about ten seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--gpu"):
        return
    skip = pytest.mark.skip(reason="needs a GPU: run with --gpu")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether expected texts are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
