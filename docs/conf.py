"""How Sphinx builds the documentation; CONTRIBUTING.md has the command.

The installed package is documented, not the folder beside this one.  By default nothing
is asked over the network; with `-t online`, names of Python and NumPy are links to their
documentation.
"""

import doctest

from docutils import nodes
from numpydoc.xref import DEFAULT_LINKS

import memfd

project = "memfd"
author = "The memfd developers"
version = release = memfd.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
default_role = "py:obj"  # what stands in backquotes in docstrings
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = f"memfd {release}"
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_sidebars = {page: [] for page in ("index", "tutorial", "api", "moving", "faq")}
html_theme_options = {
    "logo": {"text": "memfd"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 2,
    "footer_start": ["sphinx-version"],
    "footer_end": ["theme-version"],
}
# The empty line at the end of each block is for doctest, not for readers.
highlight_options = {"pycon": {"stripnl": True}}
# What is copied can be pasted: without prompts, and without what was printed.
copybutton_prompt_text = r">>> |\.\.\. ?|\$ "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
# Types of parameters are links: to our classes, and to those of Python and NumPy.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {name: name for name in DEFAULT_LINKS}
for name in memfd.__all__:
    if name[0].isupper() and not name.startswith(("MFD_", "F_")):
        numpydoc_xref_aliases[name] = f"memfd.{name}"
for name in ("bool", "bytes", "dict", "int", "list", "str", "tuple"):
    numpydoc_xref_aliases[name] = f":class:`{name}`"
for name in ("os.PathLike", "socket.socket", "numpy.ndarray", "mmap.mmap"):
    numpydoc_xref_aliases[name] = f":class:`{name}`"

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
}
if not tags.has("online"):  # noqa: F821 - Sphinx gives it to this file
    intersphinx_mapping = {}

# sphinx-build -b doctest runs the examples of docstrings, and what pages show as "pycon".
doctest_default_flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def mark_examples(app, doctree):
    """Tell the doctest builder of blocks that it takes for text."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") == "pycon":
            block["testnodetype"] = "doctest"
            block["groups"] = ["default"]


def setup(app):
    app.connect("doctree-read", mark_examples)
