"""Reading and writing files: whole ones, broken ones and foreign ones."""

import contextlib
import time
import tracemalloc

import h5py
import nir
import numpy as np
import pytest
import torch

from spikeloom.export import read, run_nir, write

F = np.float32
ONE = np.ones(2, F)


def small() -> nir.NIRGraph:
    lif = nir.LIF(tau=2e-4 * ONE, r=ONE, v_leak=0 * ONE, v_threshold=ONE)
    return nir.NIRGraph.from_list(nir.Affine(weight=np.eye(2, dtype=F), bias=ONE), lif)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.nir"
    write(path, small())
    return path


def test_a_graph_survives_writing_and_reading(path):
    x = torch.rand(20, 3, 2)
    assert torch.equal(run_nir(read(path), x), run_nir(small(), x))
    assert torch.equal(run_nir(nir.read(path), x), run_nir(small(), x))


def test_a_failing_write_leaves_the_older_file(path):
    before = path.read_bytes()
    graph = small()
    graph.metadata = {"impossible": None}
    with pytest.raises(TypeError):
        write(path, graph)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.nir"):
        read(tmp_path / "missing.nir")


def test_what_is_no_path_is_named():
    with pytest.raises(TypeError, match="path: must be a path, got int"):
        read(3)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\x89HD"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="no NIR file, it does not begin like HDF5"):
        read(tmp_path / "other")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_damaged(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"net\.nir"):
        read(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_with_flipped_bytes_reads_or_raises_value_error(path, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(8, len(content), 30):
        content[place] = rng.integers(256)
    path.write_bytes(bytes(content))
    try:
        graph = read(path)
    except ValueError:
        return
    assert isinstance(graph, nir.NIRGraph)


def test_hdf5_without_a_graph_is_refused(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(ValueError, match="it is HDF5, but no NIR file"):
        read(tmp_path / "data.h5")


def test_a_node_of_an_unknown_kind_is_named(path):
    with h5py.File(path, "r+") as file:
        del file["node/nodes/lif/type"]
        file["node/nodes/lif/type"] = "SoftLIF"
    with pytest.raises(ValueError, match=r"/node/nodes/lif is a 'SoftLIF'"):
        read(path)


def test_a_missing_parameter_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["node/nodes/lif/tau"]
    with pytest.raises(ValueError, match=r"holds no valid NIR graph: .*tau"):
        read(path)


def test_a_dangling_edge_is_refused(path):
    with h5py.File(path, "r+") as file:
        edges = [(a.decode(), b.decode()) for a, b in file["node/edges"][()]]
        del file["node/edges"]
        file["node/edges"] = [*edges, ("lif", "ghost")]
    with pytest.raises(ValueError, match="ghost"):
        read(path)


def test_shapes_that_do_not_fit_are_refused(path):
    with h5py.File(path, "r+") as file:
        del file["node/nodes/affine/weight"]
        file["node/nodes/affine/weight"] = np.ones((3, 2), F)
    with pytest.raises(ValueError, match="type mismatch"):
        read(path)


def test_a_single_node_is_no_graph(tmp_path):
    nir.write(tmp_path / "node.nir", nir.Scale(scale=ONE))
    with pytest.raises(ValueError, match="holds a single Scale, not a graph"):
        read(tmp_path / "node.nir")


def test_too_many_nodes_are_refused_before_they_are_loaded(path, monkeypatch):
    monkeypatch.setattr(nir, "read", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="more than 3 nodes; raise max_nodes"):
        read(path, max_nodes=3)


@contextlib.contextmanager
def little_memory(most: int = 100 * 2**20):
    """Fails if more than that was allocated at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(60)
def test_a_file_of_a_hundred_thousand_nodes_is_refused_at_once(path):
    with h5py.File(path, "r+") as file:
        nodes = file["node/nodes"]
        for number in range(100_000):
            nodes[f"s{number}"] = nodes["lif"]  # another name for the same node
    start = time.perf_counter()
    with little_memory(), pytest.raises(ValueError, match="more than 10000 nodes"):
        read(path)
    assert time.perf_counter() - start < 20


@pytest.mark.timeout(60)
def test_a_file_whose_graph_contains_itself_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["node/nodes/again"] = file["node"]
    with little_memory(), pytest.raises(ValueError, match="nested more than 16 deep"):
        read(path)


def test_a_link_that_leads_nowhere_is_damage(path):
    with h5py.File(path, "r+") as file:
        file["node/nodes/gone"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ValueError, match=r"net\.nir is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "value"), [("weight", "text"), ("weight", 3.0), ("bias", np.ones((2, 2), F))]
)
def test_a_parameter_of_the_wrong_type_is_refused_when_read_or_run(path, name, value):
    with h5py.File(path, "r+") as file:
        del file[f"node/nodes/affine/{name}"]
        file[f"node/nodes/affine/{name}"] = value
    with pytest.raises((ValueError, TypeError)):
        run_nir(read(path), torch.rand(2, 1, 2))


def test_too_many_edges_are_refused_before_they_are_loaded(path, monkeypatch):
    with h5py.File(path, "r+") as file:
        del file["node/edges"]
        file["node"].create_dataset("edges", shape=(2**24, 2), dtype="i1", chunks=(2**16, 2))
    monkeypatch.setattr(nir, "read", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="more than 1000000 edges"):
        read(path)


def test_arrays_too_large_are_refused_before_they_are_loaded(tmp_path, path, monkeypatch):
    with h5py.File(path, "r+") as file:
        # Two TiB on paper; chunks that were never written take no room.
        file["node/nodes/affine"].create_dataset(
            "more", shape=(2**39,), dtype="f4", chunks=(2**20,)
        )
    monkeypatch.setattr(nir, "read", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="need more than 8 GiB"):
        read(path)
