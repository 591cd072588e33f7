"""HTML pages that work as one file: nothing is loaded from anywhere, every value is escaped.

Templates, style sheets and scripts lie beside the module whose page they make, and are named by
their path in the package, for example `transfer/report/pair.html`. `layout.html` is the frame of
all pages, `parts.html` has what several of them show.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixprint.storage.atomic import write_text

BEGINNING = "pages/beginning.html"
_LOADER = PackageLoader("mixprint", "")
ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Scripts go by the order of keys, and cannot read NaN.
ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False}


def write_page(path: Path, template: str, title: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: its name.
        title: plain text.
        values: what the template shows.

    Raises:
        ValueError: a value for a script holds NaN or an infinity.
    """
    write_text(path, ENVIRONMENT.get_template(template).render(title=title, **values))


def is_page(path: Path, title: str) -> bool:
    """Tell whether a file is such a page with this title, by how it begins."""
    expected = ENVIRONMENT.get_template(BEGINNING).render(title=title).encode()
    try:
        with path.open("rb") as file:
            return file.read(len(expected)) == expected
    except OSError:
        return False


def _source(name: str) -> Markup:
    """Return a style sheet or a script, which stands in a page as it is."""
    return Markup(_LOADER.get_source(ENVIRONMENT, name)[0])


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


ENVIRONMENT.globals["source"] = _source
ENVIRONMENT.filters["base64"] = _base64
