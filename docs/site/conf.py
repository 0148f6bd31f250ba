"""Settings of Sphinx. The pages come from docs/site/build.py, which arranges them."""

import calmgrad

project = "calmgrad"
author = "The calmgrad authors"
version = release = calmgrad.__version__
html_title = "calmgrad"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.site.docstrings",
    "docs.site.mathml",
]
root_doc = "index"
default_role = "literal"  # `x` in a docstring is code
highlight_language = "none"
nitpicky = True
nitpick_ignore_regex = [
    # Other people's types, and our own aliases of them, have no page here.
    ("py:.*", r"(numpy|np|io|os|abc|types|typing|collections|contextlib|pathlib)\b.*"),
    ("py:.*", r"(hypothesis|msgspec)\b.*"),
    ("py:.*", r"(NDArray|Array|ArrayLike|ArrayModule|Operand|Axis|Share|Shares|Tokens|AnyPath).*"),
    ("py:class", r"calmgrad\..*"),  # in signatures: classes of modules that are no part of the API
]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": "{{path}}"}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    # Fonts of the reader's machine: nothing is fetched.
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "dark_css_variables": {"font-stack": "system-ui, sans-serif"},
}
