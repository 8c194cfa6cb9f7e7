"""LAS: every operator of a trained transformer becomes spikes, and decodes to the same value."""

from spikeloom.convert.las.folder import las_folder
from spikeloom.convert.las.forms import set_form
from spikeloom.convert.las.recipe import LAS
from spikeloom.convert.las.report import LASReport, saturation
from spikeloom.convert.las.storage import load_las

__all__ = ["LAS", "LASReport", "las_folder", "load_las", "saturation", "set_form"]
