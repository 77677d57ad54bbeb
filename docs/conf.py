"""How `make docs` builds these pages: offline, without warnings, formulas as MathML."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

import licm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from reference import write_reference  # noqa: E402

logger = logging.getLogger(__name__)

project = "licm"
author = copyright = "the licm developers"
version = release = licm.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # `name` in a docstring links to what it names, or is code

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autosummary_generate = False
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"licm {release}"
html_static_path = ["_static"]
html_css_files = ["licm.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Sphinx) -> None:
    """Writes the pages made from the code, and draws formulas by docutils' own means: no script, no font from afar."""
    write_reference(HERE / "api")
    app.add_html_math_renderer("mathml", (visit_inline_math, None), (visit_block_math, None))
    app.connect("autodoc-process-docstring", keep_bars)


def visit_inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Writes an inline formula as MathML, which browsers draw by themselves."""
    self.body.append(to_mathml(node))
    raise nodes.SkipNode


def visit_block_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a displayed formula as MathML, with its number."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(to_mathml(node, as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def to_mathml(node: nodes.Element, *, as_block: bool = False) -> str:
    """Returns a formula as MathML; what is not understood is a warning that says where."""
    try:
        return latex2mathml.tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("%s", error, location=node)
        return ""


def keep_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Takes a | in a docstring for itself: a norm, or the bar of mechanisms' notation; not reStructuredText."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else line.replace("|", r"\|") for line in lines]


# What scikit-learn gives every estimator is told in its own pages, to which these would link.
autodoc_default_options = {
    "exclude-members": "get_metadata_routing, set_fit_request, set_partial_fit_request, set_predict_request, "
    "set_score_request, set_transform_request, set_decision_function_request"
}
