"""What the pages that people look at have in common: one style sheet, and how their templates are read."""

import functools
import importlib.resources
from typing import Any


def resource(package: str, name: str) -> str:
    """A text file that lies beside a package's modules."""
    return importlib.resources.files(package).joinpath(name).read_text("utf-8")


@functools.cache
def base_style() -> str:
    """Colours, light and dark, and how text, tables and code look: of every page."""
    return resource(__name__, "base.css")


def environment(package: str) -> Any:
    """Jinja2 over the templates of a package, as `jinja2.Environment`: everything put into them is escaped."""
    import jinja2  # no job but the end of one needs it

    def load(name: str) -> str | None:
        try:
            return resource(package, name)
        except FileNotFoundError:
            return None

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
