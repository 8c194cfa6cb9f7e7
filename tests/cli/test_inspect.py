"""``spikeloom inspect``."""

import json

import torch
from safetensors.torch import save_file


def test_a_nir_file_is_a_tree_of_its_nodes(folder, spikeloom):
    spikeloom("export", "models:snn", "--sample", "x.pt", "-o", "net.nir")
    done = spikeloom("inspect", "net.nir")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "NIR graph"
    assert lines[1].startswith("├── input  kind Input")
    assert "6 nodes, 5 edges" in done.stdout


def test_dotted_names_are_branches(folder, spikeloom):
    save_file({"block.0.weight": torch.eye(2), "block.1.weight": torch.ones(2)}, "w.safetensors")
    assert spikeloom("inspect", "w.safetensors").stdout.splitlines() == [
        "Tensors of w.safetensors",
        "├── block",
        "│   ├── 0",
        "│   │   └── weight  dtype float32  shape [2, 2]  zeros 0.5",
        "│   └── 1",
        "│       └── weight  dtype float32  shape [2]  zeros 0",
        "└── 2 tensors, 6 values",
    ]


def test_a_table_or_json_in_the_place_of_a_tree(folder, spikeloom):
    spikeloom("export", "models:snn", "--sample", "x.pt", "-o", "net.nir")
    assert spikeloom("inspect", "net.nir", "--table").stdout.startswith("NIR graph\nnode ")
    rows = json.loads(spikeloom("inspect", "net.nir", "--json").stdout)["rows"]
    assert [row["node"] for row in rows] == ["input", "0", "1", "2", "3", "output"]


def test_a_picture_is_drawn_beside(folder, spikeloom):
    spikeloom("compress", "models:snn", "--calibration", "x.pt", "--bits", 4, "-o", "out")
    spikeloom("export", "models:snn", "--sample", "x.pt", "-o", "net.nir")
    for path in ("net.nir", "out/statistics.safetensors", "out"):
        done = spikeloom("inspect", path, "--picture", "picture.svg")
        assert done.exit_code == 0, done.stderr
        assert "<svg" in (folder / "picture.svg").read_text()
        (folder / "picture.svg").unlink()


def test_nothing_and_anything_else_is_refused(folder, spikeloom):
    for path, message in [("absent", "there is nothing at"), ("models.py", "cannot tell what")]:
        done = spikeloom("inspect", path)
        assert done.exit_code == 2 and message in done.stderr
