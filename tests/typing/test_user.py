"""What a user's type checker sees of the package."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("user.py")
# Module -> the name that the program gives it.
PUBLIC = {
    "spikeloom": "spikeloom",
    **{
        f"spikeloom.{name}": name.rpartition(".")[2]
        for name in (
            *("kernel.vocabulary", "neurons", "neurons.surrogate", "nn", "observe", "models"),
            *("convert", "compress", "verify", "export", "hosted", "modules", "calibrate"),
            *("sweep", "plugins"),
        )
    },
    **{
        f"spikeloom.plugins.{host}": f"plugins.{host}"
        for host in ("spikingjelly", "snntorch", "norse")
    },
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_program_uses_every_public_name(module):
    program = PROGRAM.read_text("utf-8")
    lines = {line.strip().rstrip(",") for line in program.splitlines()}
    for name in importlib.import_module(module).__all__:
        assert f"{PUBLIC[module]}.{name}" in lines, f"add {PUBLIC[module]}.{name} to EVERY_NAME"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as it is installed, with plugins/ as spikeloom.plugins."""
    site = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "spikeloom", site / "spikeloom", ignore=ignored)
    shutil.copytree(ROOT / "plugins", site / "spikeloom" / "plugins", ignore=ignored)
    return site


@pytest.mark.slow
def test_mypy_accepts_the_program_in_its_strict_mode(installed, tmp_path):
    config = tmp_path / "mypy.ini"
    config.write_text(
        # What the package imports itself is not the user's concern.
        f"[mypy]\nstrict = True\nmypy_path = {installed}\nfollow_imports = silent\n"
        "[mypy-nir.*]\nignore_missing_imports = True\n"
        "[mypy-transformers.*,matplotlib.*,norse.*,snntorch.*,spikingjelly.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir"]
    command += [str(tmp_path / "cache"), str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
