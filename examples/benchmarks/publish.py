"""Copy the figures that a reader of the README wants from results/*.json into it.

make bench && python examples/benchmarks/publish.py
"""

import json
import re
from pathlib import Path
from typing import Any

from spikeloom.files import write_text

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "README.md"
FRAMEWORKS = ("SpikingJelly", "snnTorch", "Norse")


def layers(result: dict[str, Any]) -> str:
    """The table of layers and the sentences below it, as Markdown.

    Args:
        result: Of ``cpu.py``.
    """
    rows = [row(key, times) for key, times in result.items() if key.startswith("autograd ")]
    head = " | ".join(f"beside {name}'s own" for name in FRAMEWORKS)
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        f"| LIF, forward and backward | {head} |",
        "|---" * (1 + len(FRAMEWORKS)) + "|",
        *rows,
        "",
        f"One thread of {result['processor']}; {versions}.",
        f"All took turns in one run; the best of {result['rounds']} rounds counts,",
        "for 64 neurons of 20 times as many.",
        f"For the backward pass a layer keeps {result['kept / input']:.2f} times its input.",
        f"The first call (trace, compile, run) takes {result['first call s']:.2f} s;",
        f"`import spikeloom` adds {result['import s']:.2f} s to `import torch`.",
    ]
    return "\n".join(lines) + "\n"


def row(key: str, times: dict[str, dict[str, float]]) -> str:
    """One size: how much faster, and the milliseconds of both."""
    _, steps, neurons = key.split()
    cells = []
    for name in FRAMEWORKS:
        ours, own = (times[who]["best"] for who in (f"spikeloom, as {name}", name))
        cells.append(f"**{own / ours:.1f}×** ({ours:.3g} ms, {own:.3g} ms)")
    size = f"{steps} step{'s' if steps != '1' else ''}, {int(neurons):,} neurons"
    return f"| {size} | {' | '.join(cells)} |"


def networks(result: dict[str, Any]) -> str:
    """The table of whole networks and the sentences below it, as Markdown.

    Args:
        result: Of ``networks.py``.
    """
    found: dict[str, dict[str, Any]] = {}
    for case in result["networks"]:
        found.setdefault(case["network"], {})[case["framework"]] = case
    rows = []
    for name, cases in found.items():
        cells = [cell(cases[f]) if f in cases else "" for f in FRAMEWORKS]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    kept = [case["ours"]["MB kept"] / case["own"]["MB kept"] for case in result["networks"]]
    lines = [
        f"| a training step of | {' | '.join(f'beside {name}' for name in FRAMEWORKS)} |",
        "|---" * (1 + len(FRAMEWORKS)) + "|",
        *rows,
        "",
        f"CPU time on one thread of {result['processor']}.",
        "In brackets: how much of the step the framework's own neurons take.",
        f"For the backward pass these networks keep {min(kept):.2f} to {max(kept):.2f} times",
        "what they keep with the framework's own neurons, weights left out.",
    ]
    return "\n".join(lines) + "\n"


def cell(case: dict[str, Any]) -> str:
    """How much faster a network is, and the share of its framework's own neurons."""
    ours, own, bare = (case[name]["ms"] for name in ("ours", "own", "bare"))
    return f"**{own / ours:.1f}×** ({max(0.0, 1 - bare / own):.0%})"


def published(page: str, texts: dict[str, str]) -> str:
    """The page with each text between the markers of its name.

    Args:
        page: With a pair of markers for each, ``<!-- name -->`` and ``<!-- /name -->``.
        texts: Name -> Markdown.

    Raises:
        ValueError: If the page has no such markers.
    """
    for name, text in texts.items():
        between = rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)"
        page, places = re.subn(between, lambda _, text=text: text, page, flags=re.DOTALL)
        if places != 1:
            raise ValueError(f"{README.name} needs one pair of {name} markers, it has {places}")
    return page


def measured() -> dict[str, str]:
    """The texts of the last runs."""
    makers = {"benchmark": (layers, "cpu"), "networks": (networks, "networks")}
    return {
        name: make(json.loads((RESULTS / f"{file}.json").read_text()))
        for name, (make, file) in makers.items()
    }


def main() -> None:
    write_text(README, published(README.read_text(encoding="utf-8"), measured()))
    print(f"wrote the figures of {RESULTS.relative_to(README.parent)} into {README.name}")


if __name__ == "__main__":
    main()
