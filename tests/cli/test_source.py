"""``spikeloom source``."""

import pytest

import spikeloom as library

ARGUMENTS = {
    "Leaky": ["beta=0.9", "reset_mechanism=zero"],
    "FewSpike": ["theta=[2, 1]", "h=[2, 1]", "d=(2, 1)"],
    "LinearHG": ["edges=[0, 1]", "rises=[1]", "constants=[0]"],
    "ElasticBiSpike": ["alpha=0.8"],
    "SignGDBits": ["bias=0.0", "offset=1.0", "function=gelu"],
    "SignTracker": ["schedule=[0.5, 0.25]", "steps=2"],
    "Trace": ["decay=0.5", "synaptic_decay=None"],
    "Alpha": ["alpha=0.9", "beta=0.8"],
    "Lapicque": ["R=5.0", "C=0.2"],
    "Synaptic": ["alpha=0.9", "beta=0.8"],
}
# Its tables are neurons themselves.
IN_PYTHON_ONLY = {"HG"}


def offered():
    found = {name: getattr(library.neurons, name) for name in library.neurons.__all__}
    return {
        name
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, library.Neuron)
    }


def test_the_command_prints_the_kernel_for_a_target(spikeloom):
    assert "define void @forward" in spikeloom("source", "LIF", "--target", "llvm").stdout


@pytest.mark.parametrize("name", sorted(offered() - IN_PYTHON_ONLY))
def test_the_command_takes_the_arguments_of_every_neuron(name, spikeloom):
    done = spikeloom("source", name, *ARGUMENTS.get(name, []))
    assert done.exit_code == 0 and "__global__" in done.stdout


def test_arguments_reach_the_generated_source(spikeloom):
    zero, none = (
        spikeloom("source", "Leaky", "beta=0.9", f"reset_mechanism={mechanism}").stdout
        for mechanism in ("zero", "'none'")
    )
    wanted = library.neurons.Leaky(0.9, reset_mechanism="none")
    assert zero != none == library.source(wanted) + "\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["Lif"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["Exponential"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["surrogate"], "neuron: must be one of ALIF, EIF, HG, IAF, IF, "),
        (["Leaky"], "Leaky: missing a required argument: 'beta'; give its arguments as name=value"),
        (["HG"], "HG: missing a required argument: 'boundaries'"),
        (["HG", "boundaries=[]", "tables=[{}]"], "tables[0] must have theta, h and d, got dict"),
        (["LIF", "tua=2"], "LIF: got an unexpected keyword argument 'tua'; give its arguments"),
        (["LIF", "tau=0.5"], "LIF: tau is in steps and must be at least 1, got 0.5"),
        (["LIF", "tau=two"], "LIF: tau must be a number or a tensor, got 'two'"),
        (["LIF", "2.0"], "arguments: must have the form name=value, got '2.0'"),
        (["LIF", "--dtype", "int8"], "dtype: must be one of"),
    ],
)
def test_the_command_explains_what_it_refuses(arguments, message, spikeloom):
    done = spikeloom("source", *arguments)
    assert done.exit_code == 2 and not done.stdout
    assert done.stderr.startswith("spikeloom: ") and message in done.stderr
