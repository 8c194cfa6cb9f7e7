"""Formulas as MathML, which browsers show without a script and without a network."""

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def converted(writer, node, as_block):
    """Append a formula to the page."""
    source = node.astext()
    if as_block and ("&" in source or r"\\" in source):
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    try:
        writer.body.append(tex2mathml(source, as_block))
    except MathError as error:
        logger.warning("no MathML for %r: %s", source, error, location=node)


def visit_math(writer, node):
    """A formula in a line of text."""
    converted(writer, node, as_block=False)


def visit_math_block(writer, node):
    """A formula on lines of its own."""
    writer.body.append(writer.starttag(node, "div", CLASS="math notranslate"))
    converted(writer, node, as_block=True)
    writer.body.append("</div>\n")


def skip(writer, node):
    """Nothing is left to do when a formula ends; its text was taken by the visit."""


def stop(visit):
    """A visit after which the formula's own text is not written again."""

    def visited(writer, node):
        visit(writer, node)
        node.children.clear()

    return visited


def setup(app):
    """Register the renderer with Sphinx."""
    app.add_html_math_renderer("mathml", (stop(visit_math), skip), (stop(visit_math_block), skip))
    return {"parallel_read_safe": True, "version": "1"}
