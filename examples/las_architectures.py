"""Which model types of transformers LAS converts: each is built small and at random, and tried.

    python examples/las_architectures.py                # every type; some hours
    python examples/las_architectures.py llama swin     # these
    python examples/las_architectures.py --rows rows.jsonl --markdown docs/las_architectures.md

Every type runs in a process of its own. With ``--rows`` the result of each is appended to a file,
and types that are in the file already are not tried again. A type that cannot be built from a
configuration made small by the usual names of its sizes, or whose forward takes other inputs than
the usual ones, is "not built": nothing is said of it.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from architectures.page import counts, page
from architectures.trial import Row, tried
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from spikeloom.files import whole_file, write_text


def main() -> None:
    """Try the types, one process after another."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*")
    parser.add_argument("--rows", type=Path, help="results, a line of JSON for each type")
    parser.add_argument("--markdown", type=Path, help="where the page is written")
    wanted = parser.parse_args()
    rows = _read(wanted.rows)
    known = {row.kind for row in rows}
    kinds = wanted.types or sorted(CONFIG_MAPPING_NAMES)
    for row in tried([kind for kind in kinds if kind not in known]):
        rows.append(row)
        print(" | ".join(row), flush=True)
        if wanted.rows:
            write_text(wanted.rows, "".join(json.dumps(known) + "\n" for known in rows))
    if wanted.markdown:
        with whole_file(wanted.markdown) as temporary:
            temporary.write_text(page(rows))
    print(counts(rows))


def _read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return [Row(*json.loads(line)) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
