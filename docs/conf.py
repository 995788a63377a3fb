"""Settings of Sphinx, which makes the site of these pages: ``sphinx-build -W docs build/site``.

It needs the packages of the group "docs" and fastopt with its extra [demo].  Nothing is fetched from the network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import rules

import fastopt

project, author = "fastopt", "the fastopt developers"
copyright = "the fastopt developers, MIT license"
version = release = fastopt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
exclude_patterns = ["images"]
copybutton_exclude = ".linenos, .gp, .go"

autodoc_typehints = "none"  # the signatures have them already
autodoc_member_order = "bysource"
autodoc_mock_imports = ["mpi4py"]
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "fastopt"
html_copy_source = False
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]


def links_of_files(app: Any, docname: str, source: list[str]) -> None:
    """Files of the repository that are no pages are named, not linked: the site has only the pages."""
    source[0] = rules.without_links_outside(source[0], Path(app.srcdir) / f"{docname}.md")


def setup(app: Any) -> None:
    """Makes the page of each rule, then lets Sphinx read all pages."""
    app.connect("builder-inited", lambda app: rules.write(Path(app.srcdir) / "reference" / "rules"))
    app.connect("source-read", links_of_files)
