"""Copy the figures that a reader of the README wants from results/cpu.json into it.

make bench && python examples/benchmarks/publish.py
"""

import json
import re
from pathlib import Path
from typing import Any

from spikeloom.files import write_text

RESULTS = Path(__file__).parent / "results" / "cpu.json"
README = Path(__file__).parents[2] / "README.md"
BETWEEN = re.compile(r"(?<=<!-- benchmark -->\n).*?(?=<!-- /benchmark -->)", re.DOTALL)
FRAMEWORKS = ("SpikingJelly", "snnTorch", "Norse")


def rendered(result: dict[str, Any]) -> str:
    """The table and the sentences below it, as Markdown."""
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


def published(page: str, result: dict[str, Any]) -> str:
    """The page with the figures between its markers.

    Raises:
        ValueError: If the page has no markers.
    """
    text = rendered(result)
    page, places = BETWEEN.subn(lambda _: text, page)
    if places != 1:
        raise ValueError(f"{README.name} needs one pair of benchmark markers, it has {places}")
    return page


def main() -> None:
    page = published(README.read_text(encoding="utf-8"), json.loads(RESULTS.read_text()))
    write_text(README, page)
    print(f"wrote the figures of {RESULTS.relative_to(README.parent)} into {README.name}")


if __name__ == "__main__":
    main()
