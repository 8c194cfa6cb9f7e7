"""Imports run one way: plugins -> convert, compress, verify, export -> neurons -> kernel."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from spikeloom import neurons
from spikeloom.modules import registry

ROOT = Path(__file__).parents[1]
SOURCE, PLUGINS = ROOT / "src" / "spikeloom", ROOT / "plugins"
COMMANDS = ROOT / "src" / "spikeloom_cli"
HOSTS = {"spikingjelly", "snntorch", "norse"}

# Part of the package -> the parts it may import from.
SHARED = {
    "kernel",
    "neurons",
    "observe",
    "layer",
    "modules",
    "hosted",
    "names",
    "report",
    "pictures",
    "sweep",
    "files",
    "calibrate",
    "rows",
    "grid",
    "ranks",
    "stored",
    "weights",
    "adapters",
    "agreement",
}
MAY_IMPORT = {
    "kernel": {"kernel"},
    "neurons": {"kernel", "neurons", "pictures"},
    "observe": {"kernel", "neurons", "modules", "observe"},
    "layer": {"kernel"},
    "modules": {"kernel", "neurons", "layer", "modules"},
    "hosted": {"kernel", "modules"},
    "nn": {"kernel", "layer", "modules", "hosted", "calibrate", "nn"},
    "adapters": set(),
    "agreement": {"kernel", "ranks", "weights"},
    "names": set(),
    "files": set(),
    "rows": set(),
    "grid": {"rows"},
    "ranks": {"sent"},
    "sent": set(),
    "stored": {"weights"},
    "weights": {"files"},
    "pictures": {"files"},
    "report": {"files", "pictures"},
    "sweep": {"report", "pictures"},
    "calibrate": {"kernel", "neurons", "layer", "modules", "hosted", "report", "files"},
    "diagnosis": {"kernel", "neurons", "report"},
    "timing": {"kernel", "report"},
    "inspection": {"report", "compress", "export", "weights"},
    "__main__": set(),
    "models": SHARED | {"models"},
    "convert": SHARED | {"convert"},
    "compress": SHARED | {"compress"},
    "verify": SHARED | {"verify"},
    "export": SHARED | {"export", "nn"},
}
# The command line shows its help without loading what takes a second.
LIGHT = {"typer", "rich", "spikeloom_cli", *sys.stdlib_module_names}
WITHOUT_TORCH = (
    "graph",
    "trace",
    "adjoint",
    "emit_cuda",
    "emit_llvm",
    "emit_bits",
    "emit_gather",
    "llvm_text",
    "llvm_scan",
    "cuda_text",
    "cuda_shape",
    "cuda_scan",
    "cuda_prelude",
    "cuda_cache",
    "cuda_totals",
    "elementary",
    "ladder",
)
ONLY_IN = {"cupy": "cuda_device", "llvmlite": "compile_cpu"}


def imports(path, *, top_level=False):
    """Every module that a file imports, with relative imports left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_lies_below_it(path):
    for module in imports(path):
        first, *rest = module.split(".")
        assert first not in HOSTS, f"{module}: src never imports a host"
        if first == "spikeloom" and rest:
            assert rest[0] in MAY_IMPORT[part(path)], f"{part(path)} imports {module}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_makes_text_does_without_torch(name):
    path = SOURCE / "kernel" / f"{name}.py"
    assert not any(module.split(".")[0] == "torch" for module in imports(path))


@pytest.mark.parametrize("package, home", ONLY_IN.items())
def test_only_the_runner_sees_the_compiler(package, home):
    users = {path.stem for path in FILES if package in {m.split(".")[0] for m in imports(path)}}
    assert users == {home}


def words(path):
    """The strings of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def classes_of(host):
    """The names of a framework's own neurons."""
    importlib.import_module(f"spikeloom.plugins.{host}")
    return {cls.__name__ for cls in registry._conventions if cls.__module__.startswith(f"{host}.")}


def test_no_class_of_a_host_is_known_by_its_name():
    ours = {name for name in vars(neurons) if not name.startswith("_")}
    known = set().union(*map(classes_of, HOSTS)) - ours
    assert {"LIFNode", "RSynaptic", "LIFBoxCell"} <= known
    for path in FILES:
        assert not known & set(words(path)), f"{path.name} spells a host's class"


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda path: path.name)
def test_a_command_loads_the_library_when_it_runs(path):
    assert {module.split(".")[0] for module in imports(path, top_level=True)} <= LIGHT
    assert not {module.split(".")[0] for module in imports(path)} & HOSTS


def test_nothing_but_the_entry_point_knows_the_command_line():
    users = {path.name for path in FILES if "spikeloom_cli" in {*imports(path)}}
    assert users == {"__main__.py"}


def test_a_host_plugin_imports_no_other_host():
    for host in HOSTS:
        for path in (PLUGINS / host).rglob("*.py"):
            found = {module.split(".")[0] for module in imports(path)} & HOSTS
            assert found <= {host}, f"{path.name} imports {found - {host}}"


def test_plugins_import_no_host_before_it_is_named():
    for path in PLUGINS.glob("*.py"):
        assert not {module.split(".")[0] for module in imports(path)} & HOSTS
