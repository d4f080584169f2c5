"""The text of HTML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp import hypertext, mime

# As it is read


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("4711", ["4711"]),
        ("a\n  b <b>c</b>\td", ["a b c d"]),
        ("a<br>b<BR/>c", ["a", "b", "c"]),
        ("<div>a</div><div><div>b</div></div>c", ["a", "b", "c"]),
        ("<div>a</div><div><br></div><div>b</div>", ["a", "", "b"]),
        ("<div>a</div><div>&nbsp;</div><div>b</div>", ["a", "", "b"]),
        ("<p>a</p>\n<p>b</p>", ["a", "", "b"]),
        ("a<br><br><br><br>b", ["a", "", "b"]),
        ("<ul><li>a<li>b</ul>", ["a", "b"]),
        ("<tr><td>a</td><td>b</td></tr><tr><td>c", ["a b", "c"]),
        ("<pre>a\n  b\n\nc</pre>d\ne", ["a", "  b", "", "c", "", "d e"]),
        ("-- <br>Ada", ["--", "Ada"]),
        ("", []),
    ],
)
def test_blocks_and_breaks_are_lines(html, lines):
    assert hypertext.text_of(html).split("\n") == [*lines, ""]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("gr&uuml;&szlig;e &amp; &#x1f600;&#33;", "grüße & \U0001f600!"),
        ("a&nbsp;b&#10;c", "a b c"),
        ("a &lt;b@c.test&gt;", "a <b@c.test>"),
        ("&#0;&#xd800;&#1;", "\ufffd\ufffd"),
        ("&#" + "9" * 5000 + ";", "\ufffd" + "9" * 4993 + ";"),
        ("AT&T & &unknown; 1 < 2 <3", "AT&T & &unknown; 1 < 2 <3"),
    ],
)
def test_characters_are_what_a_browser_shows(html, text):
    assert hypertext.text_of(html) == f"{text}\n"


@pytest.mark.parametrize(
    "html",
    [
        "<head><title>t</title><style>p > a {}</style></head>read",
        "<SCRIPT>if (a < b) '<p>'</SCRIPT >read",
        "<!-- p --!>read<!--> <!-- <p> unended",
        "<!doctype html><?xml p?><![if !mso]>read<![endif]>",
        "read</>",
        "read<script>unended</p>",
        "read<a href='unended",
        '<a title="a > b" href=c=">read',
        "<img alt='no text'>read",
    ],
)
def test_what_is_no_text_is_left_out(html):
    assert hypertext.text_of(html) == "read\n"


def test_so_many_elements_are_in_no_letter(monkeypatch):
    monkeypatch.setattr(hypertext, "_MOST_ELEMENTS", 3)

    assert hypertext.text_of("a<br>b<br>c<br>d<br>e") == "a\nb\nc\n"


# What is quoted

QUOTATIONS = {
    "Gmail": """
        <div dir="ltr">New.</div><br>
        <div class="gmail_quote gmail_quote_container">
        <div dir="ltr" class="gmail_attr">Il giorno lun 3 gen, A ha scritto:<br></div>
        <blockquote class="gmail_quote" style="margin:0px 0px">Old.</blockquote></div>""",
    "Apple Mail": """
        <body dir="auto">New.<div><br><blockquote type="cite"><div>On Mon, A wrote:<br></div>
        </blockquote></div><blockquote type="cite"><div>Old.</div></blockquote></body>""",
    "Thunderbird": """
        <p>New.</p><div class="moz-cite-prefix">Am Montag schrieb A:<br></div>
        <blockquote type="cite" cite="mid:a@b"><pre class="moz-quote-pre">Old.\n\nOlder.</pre>
        </blockquote><pre class="moz-signature">-- \nAda</pre>""",
    "Thunderbird, below": """
        <div class="moz-cite-prefix">Am Montag schrieb A:<br></div>
        <blockquote type="cite"><p>Old.</p></blockquote><p>New.</p>
        <div class="moz-signature">-- <br>Ada</div>""",
    "Outlook on the web": """
        <div>New.</div><div id="appendonsend"></div><hr tabindex="-1">
        <div id="divRplyFwdMsg" dir="ltr"><b>Da:</b> A<br><b>Inviato:</b> lun</div>
        <div><p>Old.</p></div>""",
    "Outlook": """
        <div class=WordSection1><p class=MsoNormal>New.<o:p></o:p></p>
        <div><div style='border:none;border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0in 0in 0in'>
        <p class=MsoNormal><b>Da:</b> A<br><b>Inviato:</b> lun</p></div></div>
        <p class=MsoNormal>Old.</p></div>""",
    "GMX": """
        <div>New.</div><div>&nbsp;<div name="quote"><div><b>Gesendet:</b> Montag<br><b>Von:</b> A
        </div><div name="quoted-content">Old.</div></div></div>""",
    "Yahoo": """
        <div><div>New.</div></div><div id="ydp1yahoo_quoted_1" class="ydp1 yahoo_quoted">
        <div>Il lun 3 gen, A ha scritto:</div><div><br></div><div>Old.</div></div>""",
    "an answer to each": """
        <p>On Mon, A wrote:</p><blockquote><p>Old.</p><blockquote>Older.</blockquote><p>Old.</p>
        </blockquote><p>New.</p>""",
}


@pytest.mark.parametrize("html", QUOTATIONS.values(), ids=QUOTATIONS)
def test_reply_is_what_was_written_anew(html):
    text = hypertext.text_of(html)

    assert mime.reply_text(text) == "New."
    assert "\n> Old." in text


def test_what_stands_within_a_quotation_is_marked_once_however_deep():
    html = "a<blockquote>b<blockquote>c</blockquote>d</blockquote></blockquote>e"

    assert hypertext.text_of(html) == "a\n\n> b\n>\n> c\n>\n> d\n\ne\n"


def test_elements_within_a_quotation_do_not_end_it():
    html = "<div class=gmail_quote><div>a</div></i>b</div>c"

    assert hypertext.text_of(html) == "> a\n> b\n\nc\n"


# Whatever it is

PIECES = st.sampled_from(
    [
        *["<div", "</div>", "<p>", "<br", "<blockquote>", "</blockquote>", "<pre>", "</pre>"],
        *["<script>", "</script", "<td>", "<!--", "-->", "<!", "</", ">", "=", '"', "'"],
        *["class=", "gmail_quote", "id=appendonsend", "&#x", "&#", "9", "&amp", "&nbsp;", "&#13;"],
    ]
)


@given(st.lists(PIECES | st.text(max_size=5)).map("".join))
def test_any_text_can_be_read(html):
    text = hypertext.text_of(html)

    assert text == "" or text.endswith("\n")
    assert "\n\n\n" not in text
