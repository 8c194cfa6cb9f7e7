"""What pyproject.toml promises about the installed package."""

import importlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in(folder, name):
    for init in folder.rglob("__init__.py"):
        yield ".".join([name, *init.parent.relative_to(folder).parts])


def test_every_package_is_listed_and_every_listed_package_exists():
    found = {
        *packages_in(ROOT / "src" / "spikeloom", "spikeloom"),
        *packages_in(ROOT / "plugins", "spikeloom.plugins"),
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_plugins_folder_is_installed_as_spikeloom_plugins():
    plugins = importlib.import_module("spikeloom.plugins")
    assert Path(plugins.__file__).parent.name == "plugins"
    assert plugins.__name__ == "spikeloom.plugins"
    assert importlib.import_module("spikeloom.plugins.adapter").__package__ == "spikeloom.plugins"
