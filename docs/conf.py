"""How Sphinx builds the documentation; CONTRIBUTING.md has the command.

The installed package is documented, not the folder beside this one.
"""

import memfd

project = "memfd"
author = "The memfd developers"
version = release = memfd.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"memfd {release}"
html_show_copyright = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
