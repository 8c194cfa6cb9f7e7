"""Sphinx configuration: `make docs`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "spikeloom"
author = "spikeloom contributors"
copyright = "2026, spikeloom contributors"
release = installed_version("spikeloom")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    # ours, in extensions/
    "api",
    "mathml",
    "session",
]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"

# The pages of api/ with tables; a name that several packages offer has its page with the first.
api_pages = [
    *("kernel", "neurons", "modules", "observe", "nn", "models", "convert", "compress"),
    *("verify", "export", "plugins", "spikeloom"),
]
# Members that a class's docstring describes itself.
api_excluded = {"spikeloom.modules.Conventions": "describe, begins, circuit"}

# docstrings: Google style, members in the order of the source
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autosummary_generate = False  # tables only; the directive `api` writes the pages
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"spikeloom {release}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
