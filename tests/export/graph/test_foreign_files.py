"""Graphs as other writers make them: the networks of the NIR paper, and what files leave out."""

from itertools import pairwise

import h5py
import nir
import numpy as np
import pytest
import torch

from spikeloom.export import read, run_nir, write

MS = 1e-3
CUBA = {"tau_syn": 5 * MS, "tau_mem": 20 * MS, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.3}


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def affine(outputs, inputs):
    return nir.Affine(drawn(outputs, inputs), drawn(outputs))


def lif(size, dtype=np.float32):
    values = {"tau": 20 * MS, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.1}
    return nir.LIF(**{name: np.full(size, value, dtype) for name, value in values.items()})


def cuba(size):
    values = {**CUBA, "v_reset": 0.0, "w_in": 1.0}
    return nir.CubaLIF(**{name: np.full(size, value, np.float32) for name, value in values.items()})


def ends(inputs, outputs):
    return nir.Input({"input": np.array(inputs)}), nir.Output({"output": np.array(outputs)})


def chain(inputs, outputs, *nodes, **options):
    first, last = ends(inputs, outputs)
    names = {"input": first, **{str(n): node for n, node in enumerate(nodes)}, "output": last}
    order = list(names)
    return nir.NIRGraph(names, list(pairwise(order)), **options)


def braille(*, nested):
    """The recurrent reader of Braille letters, its hidden layer flat or a graph of its own."""
    first, last = ends([12], [7])
    around = {"input": first, "fc1": affine(38, 12)}
    behind = {"fc2": affine(7, 38), "lif2": cuba(7), "output": last}
    inner = {"lif": cuba(38), "w_rec": affine(38, 38)}
    loop = [("lif", "w_rec"), ("w_rec", "lif")]
    path = ["fc2", "lif2", "output"]
    if nested:
        start, end = ends([38], [38])
        edges = [("input", "lif"), *loop, ("lif", "output")]
        hidden = {"lif1": nir.NIRGraph({"input": start, **inner, "output": end}, edges)}
        path, back = ["input", "fc1", "lif1", *path], []
    else:
        hidden = {f"lif1.{name}": node for name, node in inner.items()}
        back = [(f"lif1.{a}", f"lif1.{b}") for a, b in loop]
        path = ["input", "fc1", "lif1.lif", *path]
    edges = [*pairwise(path), *back]
    return nir.NIRGraph({**around, **hidden, **behind}, edges)


def braille_by_hand(x):
    """The same in a plain loop: forward Euler with steps of 1 ms, feedback a step later."""
    nodes = braille(nested=False).nodes
    i1, v1, back = (np.zeros((x.shape[1], 38)) for _ in range(3))
    i2, v2 = np.zeros((x.shape[1], 7)), np.zeros((x.shape[1], 7))
    found = []
    for drive in x.numpy():
        i1, v1, hidden = cuba_by_hand(applied(nodes["fc1"], drive) + back, i1, v1)
        back = applied(nodes["lif1.w_rec"], hidden)
        i2, v2, spikes = cuba_by_hand(applied(nodes["fc2"], hidden), i2, v2)
        found.append(spikes)
    return torch.from_numpy(np.stack(found))


def applied(layer, x):
    return x @ layer.weight.astype(np.float64).T + layer.bias


def cuba_by_hand(x, i, v):
    i = i + (x - i) / 5
    v = v + (i - v) / 20
    spikes = (v > CUBA["v_threshold"]).astype(float)
    return i, v * (1 - spikes), spikes


def through_a_file(graph, path, **options):
    nir.write(path, graph)
    return read(path, **options)


def events(*shape):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()


@pytest.mark.parametrize("nested", [False, True])
def test_the_recurrent_network_of_the_paper_fires_as_by_hand(nested, tmp_path):
    x = events(100, 3, 12).double()
    y = run_nir(through_a_file(braille(nested=nested), tmp_path / "braille.nir"), x, dt=MS)
    expected = braille_by_hand(x)
    assert expected.any() and torch.equal(y, expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_leaky_networks_of_the_paper_fire_as_by_hand(layers, tmp_path):
    weight = np.array([[1.0]], np.float32)
    nodes = [node for _ in range(layers) for node in (nir.Linear(weight), lif(1))]
    x = 3 * events(100, 1, 1)
    y = run_nir(through_a_file(chain([1], [1], *nodes), tmp_path / "lif.nir"), x, dt=MS)
    for _ in range(layers):
        v, spikes = 0.0, []
        for drive in x.flatten().tolist():
            v += (drive - v) / 20
            spikes.append(float(v > 0.1))
            v *= 1 - spikes[-1]
        x = torch.tensor(spikes).view(100, 1, 1)
    assert x.any() and torch.equal(y, x)


def test_a_convolutional_network_of_integrators_counts_in_steps(tmp_path):
    weight = np.ones((2, 1, 2, 2), np.float32) / 4
    one = np.ones((2, 2, 2), np.float32)
    conv = nir.Conv2d((4, 4), weight, (2, 2), (0, 0), (1, 1), 1, np.zeros(2, np.float32))
    fire = nir.IF(r=one, v_threshold=0.9 * one)
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    flat = nir.Flatten({"input": np.array([2, 1, 1])}, 0, -1)
    graph = chain([1, 4, 4], [2], conv, fire, pool, flat)
    y = run_nir(through_a_file(graph, tmp_path / "cnn.nir"), torch.ones(3, 1, 1, 4, 4), dt=1.0)
    assert y.flatten().tolist() == [4.0] * 6  # each window adds 1 in every step, and fires


def test_files_from_before_a_reset_was_stated_reset_to_zero(tmp_path):
    path = tmp_path / "old.nir"
    nir.write(path, braille(nested=False))
    x = events(100, 3, 12)
    with h5py.File(path, "r+") as file:
        for name in ("lif1.lif", "lif2"):
            del file[f"node/nodes/{name}/v_reset"]
    assert torch.equal(run_nir(read(path), x, dt=MS), run_nir(braille(nested=False), x, dt=MS))


def test_arrays_of_float64_and_delays_of_each_neuron_are_read(tmp_path):
    weight, delay = np.eye(3), nir.Delay(np.array([0.0, MS, 2 * MS]))
    graph = chain([3], [3], nir.Linear(weight), delay, lif(3, np.float64))
    x = 3 * torch.ones(4, 1, 3)
    y = run_nir(through_a_file(graph, tmp_path / "wide.nir"), x, dt=MS)
    assert y[:, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_a_graph_whose_stated_shapes_differ_is_read_without_the_check(tmp_path):
    path = tmp_path / "batched.nir"
    nodes = nir.Linear(np.eye(3, dtype=np.float32)), lif(3)
    write(path, chain([1, 3], [1, 3], *nodes, type_check=False))
    with pytest.raises(ValueError, match=r"type mismatch.*type_check=False reads it"):
        read(path)
    x = 3 * torch.ones(4, 2, 1, 3)
    assert run_nir(read(path, type_check=False), x, dt=MS).all()
