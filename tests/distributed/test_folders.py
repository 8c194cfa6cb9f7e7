"""Several processes convert and compress a checkpoint as one does, and the first one writes it."""

import pytest
import torch

from spikeloom import compress, convert
from tests.compress.test_folder import batches, empty, network, read, rows, write


def compressed(rank, source, target):
    (report,) = compress.osbc_folder(source, target, empty(), batches()[rank:][:1], sparsity=0.5)
    return rows(report)


def test_a_folder_is_compressed_by_all(pair, tmp_path):
    write(network(), tmp_path / "float")
    found = pair.run(compressed, tmp_path / "float", tmp_path / "by-all")
    (report,) = compress.osbc_folder(
        tmp_path / "float", tmp_path / "by-one", empty(), batches(), sparsity=0.5
    )
    assert found[0] == found[1]
    assert [row[:5] for row in found[0]] == [row[:5] for row in rows(report)]
    expected, state = read(tmp_path / "by-one"), read(tmp_path / "by-all")
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def converted(rank, source, target):
    from tests.convert.las.test_folder import BATCHES, QUIET

    return convert.las_folder(source, target, BATCHES[rank:][:2], QUIET).rows


def test_a_folder_is_converted_by_all(pair, tmp_path):
    pytest.importorskip("transformers")
    from tests.convert.las.test_folder import BATCHES, QUIET, decoder

    decoder().save_pretrained(tmp_path / "float")
    found = pair.run(converted, tmp_path / "float", tmp_path / "by-all")
    data = [*BATCHES[:2], *BATCHES[1:]]
    report = convert.las_folder(tmp_path / "float", tmp_path / "by-one", data, QUIET)
    assert found == [report.rows, report.rows]
    state, expected = (
        convert.load_las(tmp_path / name).state_dict() for name in ("by-all", "by-one")
    )
    assert all(torch.equal(state[name], value) for name, value in expected.items())
