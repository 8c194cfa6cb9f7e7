"""A mapping that reads as a dict does, and stays."""

import copy
import pickle

import pytest
import torch

from spikeloom.kernel.fixed import Fixed

PLAIN = {"tau": 2.0, "rate": torch.tensor(0.5)}


@pytest.mark.parametrize(
    "read",
    [
        dict,
        list,
        len,
        repr,
        lambda values: list(values.items()),
        lambda values: list(values.values()),
        lambda values: list(values.keys()),
        lambda values: {**values, "tau": 3.0},
        lambda values: values["rate"],
        lambda values: (values.get("tau"), values.get("beta"), values.get("beta", 1.0)),
        lambda values: ("tau" in values, "beta" in values),
        lambda values: values == PLAIN,
    ],
)
def test_it_is_read_like_a_dict(read):
    assert read(Fixed(PLAIN)) == read(PLAIN)


def test_a_missing_name_is_a_key_error():
    with pytest.raises(KeyError, match="beta"):
        Fixed(PLAIN)["beta"]


def test_what_it_was_made_from_may_change():
    given = dict(PLAIN)
    values = Fixed(given)
    given["tau"] = 3.0
    assert values["tau"] == 2.0


def test_setting_names_the_entry_the_value_and_the_remedy():
    values = Fixed(PLAIN)
    with pytest.raises(TypeError, match=r"'tau': cannot be set to 5, .*neuron.replace\(tau=...\)"):
        values["tau"] = 5
    with pytest.raises(TypeError, match="'tau': cannot be deleted"):
        del values["tau"]
    assert not hasattr(values, "update") and not hasattr(values, "pop")
    assert values == PLAIN


def test_copies_and_pickles_are_fixed_too_and_share_what_the_rest_shares():
    tensor = torch.tensor(0.5)
    both = {"fixed": Fixed({"rate": tensor}), "tensor": tensor}
    for twin in (copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert twin["fixed"]["rate"] is twin["tensor"] is not tensor
        with pytest.raises(TypeError, match="rate"):
            twin["fixed"]["rate"] = 1.0
