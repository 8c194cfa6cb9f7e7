"""signGD: every nonlinear operator becomes neurons that follow it by signed steps."""

from spikeloom.convert.signgd.recipe import SignGD

__all__ = ["SignGD"]
