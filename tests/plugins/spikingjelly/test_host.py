"""An older SpikingJelly is refused in one sentence; H as in the conformance list."""

import pytest
from spikingjelly.activation_based import base

from spikeloom.plugins.spikingjelly.host import require_host


def test_the_installed_host_is_accepted():
    require_host()


def test_a_host_without_explicit_states_is_refused(monkeypatch):
    """H 44: SpikingJelly before 2.0 has neurons of another contract."""
    monkeypatch.delattr(base.MemoryModule, "single_step_functional_forward")
    with pytest.raises(ImportError, match=r'>=2\.0.* pip install --upgrade "spikeloom\[spik'):
        require_host()
