"""Renders a `Result`: text, JSON, CSV, or one self-contained HTML page."""

from residyn.placing import put
from residyn.report.terminal import headline, render, text
from residyn.report.writing import check, html, write

__all__ = ["check", "headline", "html", "put", "render", "text", "write"]
