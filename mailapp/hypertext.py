"""The text of HTML, as a person reads it. Pure.

Strangers write it, so each character is looked at a few times at most: where html.parser and nh3
take time by the square of what they read, 50 kB can take ten seconds.
"""

from __future__ import annotations

import html
import re
from io import StringIO

_MOST_ELEMENTS = 500_000  #: which take two seconds

# Nothing here is tried twice. What has no end goes on to the end of the text, as in browsers.
_MARKUP = re.compile(
    r"""<!--(?:-?>|.*?(?:--!?>|\Z))                  # a comment
      | <[!?][^>]*+>? | </(?![a-z])[^>]*+>?          # what browsers take for one
      | <(?P<end>/?)(?P<name>[a-z][^\s/>]*+)
        (?P<attributes>(?:[^=>]++|=\s*+(?:"[^"]*+"?|'[^']*+'?|[^\s>]*+))*+)>?
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(
    r"""(?<![\w-])(?:class|id|name|style)\s*+=\s*+(?:"([^"]*+)|'([^']*+)|([^\s"']*+))""",
    re.IGNORECASE,
)
_CHARACTER = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?", re.IGNORECASE)

# What these hold is no text. It ends where they are ended by name, and nowhere else.
_UNREAD = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "title")}
_LINES = frozenset(
    {"address", "article", "aside", "body", "center", "dd", "details", "dir", "div", "dl", "dt"}
    | {"fieldset", "figcaption", "figure", "footer", "form", "head", "header", "hr", "html"}
    | {"legend", "li", "main", "menu", "nav", "option", "section", "summary"}
    | {"table", "tbody", "tfoot", "thead", "tr"}
)
_PARAGRAPHS = frozenset({"blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "ul"})
_CELLS = frozenset({"td", "th"})
_SPACE = " \t\n\f\r"  #: what makes no line; a space that does not break makes an empty one

# How mail programs name what holds their quotation.
_QUOTATIONS = frozenset(
    {"gmail_quote", "gmail_quote_container", "yahoo_quoted", "protonmail_quote", "tutanota_quote"}
    | {"zmail_extra"}  # Zoho
    | {"moz-cite-prefix"}  # Thunderbird: the line above it
    | {"quote"}  # GMX
    | {"messagereplysection"}  # Spark
    | {"mail-editor-reference-message-container"}  # Outlook on phones
)
# Outlook ends its answer by an element of this name, or a rule in one of these colours.
_ABOVE_QUOTATION = frozenset({"appendonsend", "divrplyfwdmsg"})
_RULE_ABOVE_QUOTATION = re.compile(r"border-top: ?solid #(?:E1E1E1|B5C4DF)", re.IGNORECASE)
_THE_REST = "/"  #: holds what is below; no element is called that, so none ends it


def text_of(source: str) -> str:
    """Return the text of HTML, what it quotes marked by ">"; never raises.

    Blocks and <br> are lines. Links and pictures are gone, and what comes after more elements
    than any letter has.

    >>> text_of("<p>Yes,<br>I&nbsp;do.</p><blockquote>Do you?</blockquote>")
    'Yes,\\nI do.\\n\\n> Do you?\\n'
    """
    page, at = _Page(), 0
    for _ in range(_MOST_ELEMENTS):
        if not (found := _MARKUP.search(source, at)):
            page.write(source[at:])
            break
        page.write(source[at : found.start()])
        at = found.end()
        name = (found["name"] or "").lower()
        if found["end"]:
            page.close(name)
        elif name in _UNREAD:
            end = _UNREAD[name].search(source, at)
            at = end.start() if end else len(source)
        elif name:
            page.open(name, found["attributes"])
    return page.text()


class _Page:
    """The lines as they come, and what the next one stands in."""

    def __init__(self) -> None:
        self._text = StringIO()  # which holds many short lines in less memory than a list
        self._mark = ""  #: of the last line
        self._line: list[str] = []  #: what there is of the next one
        self._wants_gap = False  #: an empty line before the next one that is not empty
        self._verbatim = 0  #: so many <pre> are open
        self._quotation = ""  #: what element holds it; "" outside of one
        self._depth = 0  #: so many elements of that name are open

    def write(self, text: str) -> None:
        text = _CHARACTER.sub(lambda found: html.unescape(found[0]), text)
        if not self._verbatim:
            self._line.append(text)
            return
        for line in StringIO(text):
            self._line.append(line)
            if line.endswith("\n"):
                self._end_line()

    def open(self, name: str, attributes: str) -> None:
        if name == "br":
            self._end_line()
            return
        self._part(name)
        self._verbatim += name == "pre"
        if self._quotation:
            self._depth += name == self._quotation
        elif quotation := _quotation_begun_by(name, attributes):
            self._quotation, self._depth, self._wants_gap = quotation, 1, True

    def close(self, name: str) -> None:
        self._part(name)
        self._verbatim = max(self._verbatim - (name == "pre"), 0)
        self._depth -= name == self._quotation
        if self._quotation and self._depth == 0:
            self._quotation, self._wants_gap = "", True

    def text(self) -> str:
        self._part("body")
        return self._text.getvalue()

    def _part(self, name: str) -> None:
        """Part what was written from what comes, as an element of that name does."""
        if name in _CELLS:
            self._line.append(" ")
        if name in _LINES or name in _PARAGRAPHS:
            if "".join(self._line).strip(_SPACE):
                self._end_line()
            self._line.clear()
        self._wants_gap |= name in _PARAGRAPHS

    def _end_line(self) -> None:
        written = "".join(self._line)
        self._line.clear()
        text = written.rstrip() if self._verbatim else " ".join(written.split())
        if not text:
            self._wants_gap = True
            return
        mark = "> " if self._quotation else ""
        if self._wants_gap and self._text.tell():
            self._text.write(">\n" if mark and self._mark else "\n")
        self._text.write(f"{mark}{text}\n")
        self._mark, self._wants_gap = mark, False


def _quotation_begun_by(name: str, attributes: str) -> str:
    """Return what element holds the quotation that this one begins; "" if it begins none."""
    if name == "blockquote":
        return name
    if name != "div":
        return ""
    values = ["".join(found) for found in _ATTRIBUTE.findall(attributes)]
    names = set(" ".join(values).lower().split())
    if names & _ABOVE_QUOTATION or any(map(_RULE_ABOVE_QUOTATION.search, values)):
        return _THE_REST
    return name if names & _QUOTATIONS else ""
