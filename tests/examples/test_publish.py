"""The figures in the README are those of the benchmark's last run."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "benchmarks" / "publish.py"

NAMES = ("SpikingJelly", "snnTorch", "Norse")
MEASURED = {
    "processor": "Abacus 1",
    "versions": {"torch": "2.13.0"},
    "rounds": 15,
    "autograd 16 100000": {
        **{f"spikeloom, as {name}": {"best": 2.0, "median": 2.5} for name in NAMES},
        **{
            name: {"best": best, "median": 9.0}
            for name, best in zip(NAMES, (8.0, 9.0, 10.0), strict=True)
        },
    },
    "kernel 2.0 16 1000000": {"copy": {"best": 1.0, "median": 1.0}},
    "kept / input": 1.0000006,
    "first call s": 0.19,
    "import s": 0.03,
}


@pytest.fixture(scope="module")
def publish():
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_shows_how_much_faster_and_both_times(publish):
    text = publish.layers(MEASURED)
    assert "| 16 steps, 100,000 neurons | **4.0×** (2 ms, 8 ms) | **4.5×**" in text
    assert "Abacus 1; torch 2.13.0" in text
    assert "1.00 times its input" in text


def test_a_network_shows_how_much_faster_and_the_share_of_its_neurons(publish):
    own = {"ms": 8.0, "MB kept": 4.0}
    case = {"own": own, "ours": {"ms": 4.0, "MB kept": 2.0}, "bare": {"ms": 2.0, "MB kept": 1.0}}
    smaller = {**case, "ours": {"ms": 16.0, "MB kept": 5.0}, "bare": own}
    text = publish.networks(
        {
            "processor": "Abacus 1",
            "networks": [
                {"network": "a net", "framework": "SpikingJelly", **case},
                {"network": "a net", "framework": "Norse", **smaller},
            ],
        }
    )
    assert "| a net | **2.0×** (75%) |  | **0.5×** (0%) |" in text
    assert "keep 0.50 to 1.25 times" in text


def test_only_what_is_between_the_markers_changes(publish):
    page = "before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n"
    changed = publish.published(page, {"benchmark": publish.layers(MEASURED)})
    assert changed.startswith("before\n<!-- benchmark -->\n| LIF")
    assert changed.endswith("\n<!-- /benchmark -->\nafter\n")
    assert publish.published(changed, {"benchmark": publish.layers(MEASURED)}) == changed


def test_a_page_without_markers_is_refused(publish):
    with pytest.raises(ValueError, match="one pair of benchmark markers"):
        publish.published("no markers", {"benchmark": publish.layers(MEASURED)})


def test_the_readme_shows_the_last_run(publish):
    page = publish.README.read_text(encoding="utf-8")
    assert publish.published(page, publish.measured()) == page
