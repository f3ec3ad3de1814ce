"""Fixtures that tests of several parts share."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest


@attrs.frozen
class SitePackages:
    """A folder of installed distributions, laid out as pip leaves them."""

    folder: Path

    def install(
        self,
        distribution: str,
        files: Mapping[str, str],
        *,
        version: str = "0.1",
        plugins: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
    ) -> None:
        """Write a distribution with its code and metadata.

        ``plugins`` are its entry points; by default one, named like the distribution without ``dlm-``, for its first
        module.
        """
        if plugins is None:
            plugins = {distribution.removeprefix("dlm-"): next(iter(files)).partition("/")[0].removesuffix(".py")}
        metadata = [f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}"]
        metadata += [f"Requires-Dist: {each}" for each in requires]
        folder = f"{distribution.replace('-', '_')}-{version}.dist-info"
        entry_points = ["[dlm.plugins]", *(f"{name} = {module}" for name, module in plugins.items())]
        written = {f"{folder}/METADATA": "\n".join(metadata), f"{folder}/entry_points.txt": "\n".join(entry_points)}
        for path, text in {**files, **written}.items():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the ``dlm`` command in a fresh process that sees these distributions."""
        variables = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-c", "from dlm_cli.main import main; main()", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def visible_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], SitePackages]]:
    """Make a folder of installed distributions importable in this process until the test ends."""
    folders: list[str] = []

    def show(folder: Path) -> SitePackages:
        monkeypatch.syspath_prepend(folder)
        folders.append(str(folder))
        for variable in ("DLM_DISABLE_PLUGINS", "DLM_STRICT_PLUGINS"):
            monkeypatch.delenv(variable, raising=False)
        return SitePackages(folder)

    yield show
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(tuple(folders)):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def site_packages(tmp_path: Path, visible_packages: Callable[[Path], SitePackages]) -> SitePackages:
    """An empty folder of installed distributions, importable in this process until the test ends."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return visible_packages(folder)


@pytest.fixture(scope="session")
def pip_install() -> Callable[[Path, Path], None]:
    """Install a project into a folder with pip: built for real, without a network."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile"]

    def install(project: Path, packages: Path) -> None:
        command = [*pip, "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(packages), str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return install


def pytest_addoption(parser: pytest.Parser) -> None:
    """Long trials are run when asked for; CI asks."""
    parser.addoption(
        "--full",
        action="store_true",
        help="also run what takes minutes: the default run file to its end, plugins that are slow",
    )
