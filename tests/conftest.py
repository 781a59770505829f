"""What all tests share: peers, short probes, and a cache of their own."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the processors share the threads, before torch comes
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


@pytest.fixture(scope="session")
def torchvision_operators() -> None:
    """Lets torchvision, and timm, which takes it, be imported where its compiled operators do not load."""
    from resvision.exporting.peers import import_torchvision

    with contextlib.suppress(ImportError):  # then those that need it skip
        import_torchvision()


@pytest.fixture(scope="session", autouse=True)
def short_probes() -> Iterator[None]:
    """Runs look at their own pace for a moment; only test_length asks how good the estimate is."""
    from resvision.training import length

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "PREFLIGHT_SECONDS", 0.0)
        patch.setattr(length, "PROBE_SECONDS", 0.5)
        yield


def pytest_collection_finish() -> None:
    """What imports made stays to the end; no collection need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def picture_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests, and the programs that they start, leave a person's picture cache alone."""
    folder = tmp_path_factory.mktemp("pictures")
    os.environ["RESVISION_CACHE"] = str(folder)
    yield folder
    del os.environ["RESVISION_CACHE"]
