"""What all commands have in common."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spikeloom as library
import spikeloom_cli
from spikeloom_cli import main
from spikeloom_cli.app import COMMANDS

FILES = sorted(Path(spikeloom_cli.__file__).parent.glob("*.py"))


def process(*arguments, code=None, **settings):
    command = [sys.executable, "-m", "spikeloom", *arguments]
    if code is not None:
        command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **settings)


def test_the_help_names_every_command_and_loads_neither_torch_nor_the_library():
    code = (
        "import sys; from spikeloom_cli import main; status = main(['--help']); "
        "print(status, sorted({'torch', 'spikeloom', 'numpy'} & set(sys.modules)))"
    )
    done = process(code=code)
    assert done.stdout.endswith("0 []\n"), done.stdout + done.stderr
    for command in COMMANDS:
        assert f"│ {command.__name__} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_commands_help_is_plain_text_and_says_what_each_option_is(command, spikeloom):
    done = spikeloom(command.__name__, "--help")
    assert done.exit_code == 0
    for sign in ("``", ":class:", ":func:", "Args:", "Returns:"):
        assert sign not in done.stdout
    for line in done.stdout.splitlines():
        assert line.rstrip(" │").split()[-1:] != ["<str>"], f"without a help text: {line}"


def test_the_version_is_the_librarys(spikeloom):
    assert spikeloom("--version").stdout == f"spikeloom {library.__version__}\n"


def test_a_wrong_command_or_option_is_one_line_and_status_2(spikeloom):
    for arguments in (["dance"], ["source"], ["source", "LIF", "--target", "opencl"], ["--jump"]):
        done = spikeloom(*arguments)
        assert done.exit_code == 2 and not done.stdout
        assert done.stderr.startswith("spikeloom: ") and done.stderr.count("\n") == 1
        assert "--help`" in done.stderr


def test_an_error_has_no_traceback_unless_it_is_asked_for():
    done = process("source", "LIF", "tau=0.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spikeloom: LIF: tau is in steps and must be at least 1, got 0.5\n"
    done = process("--traceback", "source", "LIF", "tau=0.5")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_an_error_of_the_users_code_says_its_kind(folder, spikeloom):
    (folder / "models.py").write_text("def net():\n    return {}['weights']\n")
    done = spikeloom("export", "models:net", "--sample", "x.pt", "-o", "net.nir")
    assert (done.exit_code, done.stderr) == (2, "spikeloom: KeyError: 'weights'\n")


def test_a_warning_is_one_line(folder):
    (folder / "models.py").write_text("import warnings\ndef net():\n    warnings.warn('old')\n")
    done = process("verify", "models:net", "--sample", "x.pt", cwd=folder)
    assert done.stderr.splitlines()[0] == "spikeloom: warning: old"


def test_main_returns_the_status(capsys):
    assert main(["source", "LIF"]) == 0
    assert main(["source", "Lif"]) == 2
    assert main(["dance"]) == 2


@pytest.mark.parametrize("arguments", [["source", "LIF"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """As in ``spikeloom source LIF | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "spikeloom", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_shell_completes_commands_without_loading_torch():
    code = (
        "import os, sys; os.environ |= {'_SPIKELOOM_COMPLETE': 'complete_bash', "
        "'COMP_WORDS': 'spikeloom co', 'COMP_CWORD': '1'}\n"
        "from spikeloom_cli import main\n"
        "try: main([])\nfinally: print('torch' in sys.modules)"
    )
    assert process(code=code).stdout.split() == ["convert", "compress", "compare", "False"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_stays_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


def test_every_command_has_a_test_file_of_its_own():
    here = Path(__file__).parent
    for command in COMMANDS:
        assert (here / f"test_{command.__name__}.py").is_file()
        importlib.import_module(f"spikeloom_cli.{command.__name__}")
