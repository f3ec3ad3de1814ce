"""How the suite is run (workers, the quick part, how many random trials), and fixtures that several parts share."""

import fcntl
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import psutil
import pytest
from hypothesis import settings

# Read when torch and the hub's client are imported: one thread a process, and no test reaches the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

MadeOnce = Callable[[str, Callable[[Path], object]], Path]

TESTS = Path(__file__).parent
WORKER_BYTES = 2 << 30
TRIALS, QUICK_TRIALS = 20, 5
NOT_QUICK = (
    "benchmarks",
    "builtin_plugins/test_contracts.py",
    "builtin_plugins/test_hostile_answers.py",
    "builtin_plugins/test_tests_reward.py",
    "cli",
    "core/config/test_config_properties.py",
    "core/data/conversations/test_reasoning.py",
    "core/data/test_streaming.py",
    "core/data/test_token_cache.py",
    "core/diffusion/test_attention.py",
    "core/diffusion/test_forward_process.py",
    "core/diffusion/test_random_length.py",
    "core/diffusion/test_times.py",
    "core/evaluation",
    "core/interop",
    "core/model/test_convert.py",
    "core/model/test_foreign_config.py",
    "core/model/test_gguf.py",
    "core/model/test_loading.py",
    "core/sampling/test_ending.py",
    "core/sampling/test_families.py",
    "core/sampling/test_invariants.py",
    "core/sampling/test_oracle.py",
    "core/serving",
    "core/training",
    "end_to_end",
    "golden",
    "gpu",
    "plugins/test_broken_plugins.py",
    "plugins/testing",
    "reliability",
)
"""Files and folders whose tests train, drive commands, read whole models, try the contracts out, or draw a lot."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="also run what takes minutes: the default run file to its end, plugins that are slow",
    )
    parser.addoption(
        "--trials",
        type=int,
        metavar="N",
        help=f"how often a run is killed at random (default {TRIALS}; a release: 2000); "
        f"the examples that hypothesis draws are as many more or fewer (with -m quick as for {QUICK_TRIALS})",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        # Tests compute on the CPU what they compare with: the model has to be there too, whatever the machine has.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # The workers, and all commands that tests start, tokenize into it: none into the user's own.
        cache = tempfile.TemporaryDirectory(prefix="dlm-test-cache-")
        config.add_cleanup(cache.cleanup)
        os.environ["DLM_CACHE"] = cache.name
    if config.option.trials is None:
        config.option.trials = QUICK_TRIALS if config.option.markexpr == "quick" else TRIALS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that has no quick test need not be imported to find that out."""
    is_test = collection_path.is_file() and collection_path.name.startswith("test_")
    return True if config.option.markexpr == "quick" and is_test and not is_quick(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """All tests are shared among workers, one for each core; a part that is named runs in this process, unless -n."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # a worker has no workers of its own, nor has a pytest that a test starts
    is_part = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.usepdb or config.option.collectonly
    if getattr(config.option, "numprocesses", 0) is None and not is_part:
        config.option.numprocesses = num_workers()
        config.option.dist = "worksteal"


def num_workers() -> int:
    """One for each core that has memory for it; none where there would be a single one."""
    number = min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // WORKER_BYTES)
    return number if number > 1 else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick = {path for path in {item.path for item in items} if is_quick(path)}
    for item in items:
        if item.path in quick:
            item.add_marker("quick")
    share = config.option.trials / TRIALS
    if share != 1:
        tests = (item.obj for item in items if isinstance(item, pytest.Function))
        for function in {getattr(test, "__func__", test) for test in tests}:
            size_examples(function, share)


def is_quick(file: Path) -> bool:
    """Whether the tests of a file are the loop of work: they neither start processes nor do what is listed above."""
    slow = any(file.is_relative_to(TESTS / each) for each in NOT_QUICK)
    return not slow and "import subprocess" not in file.read_text(encoding="utf-8")


def size_examples(function: Callable[..., object], share: float) -> None:
    """Let hypothesis draw that share of the examples of a test."""
    attribute = "_hypothesis_internal_use_settings"
    if declared := getattr(function, attribute, None):
        setattr(function, attribute, settings(declared, max_examples=max(1, round(declared.max_examples * share))))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """``made_once(name, make)``: a folder that ``make(folder)`` fills, once for all workers; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    root.mkdir(exist_ok=True)

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, is_made = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                folder.mkdir()
                make(folder)
                is_made.touch()
        return folder

    return get


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
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)


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
def installed_here() -> str:
    """Text of a ``.pth`` file that lets another environment see what is installed in this one.

    Path files in those folders are not followed from there: the link to the checkout is not among what is seen.
    """
    folders = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    return "".join(f"{each}\n" for each in folders)


@pytest.fixture(scope="session")
def pip_install() -> Callable[[Path, Path], None]:
    """Install a project into a folder with pip: built for real, without a network."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile"]

    def install(project: Path, packages: Path) -> None:
        command = [*pip, "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(packages), str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return install
