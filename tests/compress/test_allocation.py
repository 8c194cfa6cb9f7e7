import pytest
import torch

from spikeloom import compress
from spikeloom.compress.allocation import lamps_scores
from tests.compress.cases import golden

FILE = golden("osbc_alloc")
WEIGHTS = {name: FILE[f"W_{name}"] for name in "abc"}


@pytest.mark.parametrize("power", [2, 3])
def test_scores_equal_the_golden_ones(power):
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(
            lamps_scores(weight, power), FILE[f"score_p{power}_{name}"], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("power", [2, 3])
@pytest.mark.parametrize("percent", [50, 75, 90, 97])
def test_counts_equal_the_golden_ones(power, percent):
    counts = compress.allocate(WEIGHTS, percent / 100, power=power)
    assert list(counts.values()) == FILE[f"count_p{power}_{percent}"].tolist()


def test_uniform_takes_the_same_share_of_each_layer():
    assert compress.allocate(WEIGHTS, 0.5, "uniform") == {"a": 120, "b": 48, "c": 20}


def test_a_mapping_gives_each_layer_its_share():
    shares = {"a": 0.5, "b": 0.0, "c": 0.9}
    assert compress.allocate(WEIGHTS, allocation=shares) == {"a": 120, "b": 0, "c": 36}


def test_nothing_is_removed_at_sparsity_zero():
    assert set(compress.allocate(WEIGHTS, 0.0).values()) == {0}


def test_one_weight_is_left_just_below_one():
    counts = compress.allocate(WEIGHTS, 1 - 1e-16)
    assert sum(counts.values()) == sum(w.numel() for w in WEIGHTS.values()) - 1


def test_zero_weights_go_first():
    weights = {"zeros": torch.zeros(10), "ones": torch.ones(10)}
    assert compress.allocate(weights, 0.5) == {"zeros": 10, "ones": 0}


def test_gradients_and_half_precision_do_not_matter():
    weights = {"a": torch.nn.Parameter(torch.rand(8).half())}
    assert compress.allocate(weights, 0.5) == {"a": 4}


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((1.0,), ValueError, r"\[0, 1\)"),
        ((-0.1,), ValueError, r"\[0, 1\)"),
        ((float("nan"),), ValueError, r"\[0, 1\)"),
        (("half",), TypeError, "a number"),
        ((0.5, "global"), ValueError, "'lamps', 'uniform'"),
        ((None, {"a": 0.5}), ValueError, "a share for each of a, b, c"),
        ((None, {"a": 1.5, "b": 0.1, "c": 0.1}), ValueError, "allocation"),
        ((0.2, {"a": 0.5, "b": 0.1, "c": 0.1}), ValueError, "leave sparsity=0.2 out"),
        ((), ValueError, "sparsity: say which share"),
        ((0.5, "lamps", 0.0), ValueError, "power"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        compress.allocate(WEIGHTS, *arguments)


@pytest.mark.parametrize("allocation", ["lamps", "uniform"])
def test_shares_are_taken_in_decimals(allocation):
    weights = {"a": torch.randn(10, 10)}
    for percent in range(100):  # in binary, 0.29 of 100 is 28.999...
        assert compress.allocate(weights, percent / 100, allocation) == {"a": percent}
        assert compress.allocate(weights, allocation={"a": percent / 100}) == {"a": percent}
