"""A hook of MkDocs: shows the files of the project that a page links to, as pages of the site.

So `[dispatch](../mailapp/dispatch.py)` leads somewhere in the site as well as on a forge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

_LINK = re.compile(r"\]\(\.\./([^)#]+)\)")
_LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown", ".msg": "django"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file that some page links to; raise OSError if there is none."""
    pages = [page.content_string for page in files.documentation_pages()]
    for path in sorted({path for page in pages for path in _LINK.findall(page)}):
        files.append(File.generated(config, _page(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead the links to those pages."""
    return _LINK.sub(lambda link: f"]({_page(link[1])})", markdown)


def _page(path: str) -> str:
    return f"source/{path}.md"


def _shown(path: str) -> str:
    file = ROOT / path
    language = _LANGUAGES.get(file.suffix, "text")
    fence = "`" * 6
    return f"# {path}\n\n{fence}{language}\n{file.read_text()}\n{fence}\n"
