"""What pyproject.toml promises about the installed package."""

import importlib
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import spikeloom

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in(folder, name):
    for init in folder.rglob("__init__.py"):
        yield ".".join([name, *init.parent.relative_to(folder).parts])


def test_every_package_is_listed_and_every_listed_package_exists():
    found = {
        *packages_in(ROOT / "src" / "spikeloom", "spikeloom"),
        *packages_in(ROOT / "plugins", "spikeloom.plugins"),
        *packages_in(ROOT / "src" / "spikeloom_cli", "spikeloom_cli"),
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_version_is_said_once_and_the_citation_agrees():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert f"\nversion: {spikeloom.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_plugins_folder_is_installed_as_spikeloom_plugins():
    plugins = importlib.import_module("spikeloom.plugins")
    assert Path(plugins.__file__).parent.name == "plugins"
    assert plugins.__name__ == "spikeloom.plugins"
    assert importlib.import_module("spikeloom.plugins.adapter").__package__ == "spikeloom.plugins"


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory):
    """The files of a source distribution; nothing is left in the checkout."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet"]
    command += ["egg_info", f"--egg-base={out}", "sdist", f"--dist-dir={out}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        return {Path(*Path(name).parts[1:]) for name in opened.getnames()}


@pytest.mark.parametrize("folder", ["docs", "examples", "plugins", "requirements", "tests"])
def test_a_source_distribution_holds_a_folder_as_a_whole(source_distribution, folder):
    here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
    written = {path for path in here if path.suffix == ".pyc" or "_build" in path.parts}
    assert here - written <= source_distribution
    assert not written & source_distribution


def test_a_source_distribution_holds_what_its_tests_and_make_read(source_distribution):
    names = ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("*.md")))
    assert {Path(name) for name in (*names, "CITATION.cff", "LICENSE")} <= source_distribution


def test_importing_spikeloom_brings_neither_a_compiler_of_torch_nor_a_framework():
    code = (
        "import sys, torch; before = set(sys.modules); import spikeloom; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "assert 'torch._dynamo' not in sys.modules, 'torch._dynamo'; "
        "assert not new & {'cupy', 'nir', 'norse', 'snntorch', 'spikingjelly', 'triton'}, new"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["compress", "convert", "models", "observe", "plugins", "verify"])
def test_a_package_within_is_there_once_spikeloom_is_imported(name):
    code = f"import spikeloom; assert spikeloom.{name}.__name__ == 'spikeloom.{name}'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'convart'"):
        spikeloom.convart  # noqa: B018
