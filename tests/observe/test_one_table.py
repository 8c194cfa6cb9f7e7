"""What an operation of torch means is said in one place: no other file lists operations."""

import ast
from pathlib import Path

import pytest

from spikeloom.observe import meaning_of

SOURCE = Path(__file__).parents[2] / "src" / "spikeloom"
# The table itself; and the words of a neuron's step, which the kernel computes by itself.
OWN = ("observe", "kernel", "neurons")
FILES = [
    path for path in sorted(SOURCE.rglob("*.py")) if path.relative_to(SOURCE).parts[0] not in OWN
]
# So many names of operations together are a statement about them.
MANY = 4
# What a file does with particular operations is its own affair: handlers, by the name.
HANDLED = {
    # A layout says where the features are behind each of them.
    "verify/fold/connections.py": {"contiguous", "flatten", "movedim", "unflatten"},
}


def words(node):
    """The strings of a collection, the keys of a dict without handlers, the words of a text."""
    if isinstance(node, ast.Dict):
        constants = (ast.Constant, ast.Tuple)
        pairs = zip(node.keys, node.values, strict=True)
        found = [key for key, value in pairs if isinstance(value, constants)]
    elif isinstance(node, (ast.Set, ast.Tuple, ast.List)):
        found = node.elts
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.split()
    else:
        return []
    return [key.value for key in found if isinstance(key, ast.Constant)]


def listed(path):
    """The lists of operations in a file: the line of each, and the names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        found = [word for word in words(node) if isinstance(word, str)]
        known = [word for word in found if meaning_of(word) is not None]
        if len(known) >= MANY and 2 * len(known) > len(found) and id(node) not in documentation:
            yield node.lineno, known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_file_lists_operations(path):
    place = str(path.relative_to(SOURCE))
    lists = [names for _, names in listed(path) if set(names) != HANDLED.get(place)]
    assert not lists, f"{place}: ask spikeloom.observe.meaning_of what {lists} do"


# They run one overload, which says nothing about what it means.
RUN = {"nn/convolution.py", "nn/product.py"}


def test_only_the_table_and_its_dialects_spell_overloads():
    others = [path for path in FILES if str(path.relative_to(SOURCE)) not in RUN]
    files = (*others, *(SOURCE.parents[1] / "plugins").rglob("*.py"))
    spelling = [path for path in files if "torch.ops.aten" in path.read_text(encoding="utf-8")]
    assert not spelling


def test_a_list_of_operations_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text(
        'MOVES = {"view", "permute", "flip", "roll"}\n'
        'LINEAR = names("add sub mean sum")\n'
        'FACTORS = {"mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1)}\n'
        'RULES = {"mm": product, "bmm": product, "mv": product, "dot": product}\n'
    )
    assert sorted(line for line, _ in listed(tmp_path / "a.py")) == [1, 2, 3]
