"""What every test stands on: no network, a cache of its own, one thread, and the data folder if there is one."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports torch or huggingface_hub: both read their environment on import.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_LLC_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_llc-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import pytest
import torch

if TYPE_CHECKING:
    from hub import Hub
    from matplotlib.figure import Figure

torch.set_num_threads(1)
if not torch.cuda.is_available():
    collect_ignore = ["test_cuda.py"]


def pytest_collection_finish() -> None:
    """What has been imported stays: the collector of garbage need not look through it, half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says how wide the terminal is, so texts have their full width; tests of narrow ones set COLUMNS."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """`data_folder(name)` → that folder of the data at `HF_LLC_DATA`; the test is skipped where it is not."""

    def find(name: str) -> Path:
        folder = Path(os.environ["HF_LLC_DATA"]) / name
        if not folder.is_dir():
            pytest.skip(f"no data folder {folder} (set HF_LLC_DATA to the folder that holds {name})")
        return folder

    return find


@pytest.fixture(autouse=True)
def quick_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are blank in tests that do not look at them: those without `drawn` and without the mark `pictures`."""
    if "drawn" not in request.fixturenames and not request.node.get_closest_marker("pictures"):
        import blank

        monkeypatch.setattr(blank.Figure, "savefig", blank.save)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the test saves from here on: their artists say what a PNG's size does not."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder and a text that go together."""
    import tiny

    here = tmp_path_factory.mktemp("sound")
    tiny.save_llama(here / "model")
    (here / "text.txt").write_text("\n\n".join(tiny.SENTENCES * 20))
    return here


@pytest.fixture
def here(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, in a working directory of its own."""
    from hf_llc.cli import console

    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(console, "hush", lambda quiet: None)
    return tmp_path


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """The test Hub, started once; tests take `hub`."""
    from hub import Hub

    server = Hub()
    yield server
    server.close()


@pytest.fixture
def hub(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub on 127.0.0.1 (see tests/hub), for programs that it starts and for `HfApi` in this process."""
    from huggingface_hub import close_session, constants

    hub_server.reset()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub_server
    close_session()
    assert not hub_server.errors, "\n".join(hub_server.errors)
