"""Mail templates: one file, with autoescape right for each part."""

from __future__ import annotations

import pytest
from django.template import TemplateDoesNotExist, TemplateSyntaxError

from mailapp.rendering import render

WHOLE = """
Anything outside of the blocks is a comment.
{% block subject %}
    Hello {{ name }}
{% endblock %}
{% block text %}
Dear {{ name }},

{% block greeting %}good day.{% endblock %}
{% endblock %}
{% block html %}<p>Dear {{ name }}</p>{% endblock %}
"""


def test_parts_of_a_template_are_its_blocks(templates):
    templates(**{"mail/whole.msg": WHOLE})

    mail = render("mail/whole.msg", {"name": "Ann"})

    assert mail == ("Hello Ann", "Dear Ann,\n\ngood day.\n", "<p>Dear Ann</p>")


def test_only_html_is_escaped(templates):
    templates(**{"whole.msg": WHOLE})

    mail = render("whole.msg", {"name": "<b>'Ann' & Co</b>"})

    assert mail.subject == "Hello <b>'Ann' & Co</b>"
    assert mail.text.startswith("Dear <b>'Ann' & Co</b>,\n")
    assert mail.html == "<p>Dear &lt;b&gt;&#x27;Ann&#x27; &amp; Co&lt;/b&gt;</p>"


def test_template_may_extend_another_and_use_its_blocks(templates):
    templates(
        **{
            "base.msg": WHOLE,
            "mine.msg": """{% extends "base.msg" %}
                {% block subject %}{{ block.super }} again{% endblock %}
                {% block greeting %}{{ block.super }} And {{ name }}!{% endblock %}""",
        }
    )

    mail = render("mine.msg", {"name": "<Ann>"})

    assert mail.subject == "Hello <Ann> again"
    assert mail.text == "Dear <Ann>,\n\ngood day. And <Ann>!\n"
    assert mail.html == "<p>Dear &lt;Ann&gt;</p>"


def test_part_that_a_template_lacks_is_empty(templates):
    templates(**{"short.msg": "{% block text %}Hello{% endblock %}"})

    assert render("short.msg", {}) == ("", "Hello\n", "")


def test_subject_is_one_line_whatever_it_is_made_of(templates):
    templates(**{"short.msg": "{% block subject %}Re: {{ name }}{% endblock %}"})

    mail = render("short.msg", {"name": "a\r\nBcc: you@example.com\0\x85\u2028 b"})

    assert mail.subject == "Re: a Bcc: you@example.com b"


def test_context_is_not_changed(templates):
    templates(**{"whole.msg": "{% block text %}{% with name=1 %}{% endwith %}{% endblock %}"})
    context = {"name": "Ann"}

    render("whole.msg", context)

    assert context == {"name": "Ann"}


def test_unknown_template_is_named():
    with pytest.raises(TemplateDoesNotExist, match=r"no-such\.msg"):
        render("no-such.msg", {})


def test_template_that_extends_an_unknown_one_is_named(templates):
    templates(**{"mine.msg": '{% extends "no-such.msg" %}'})

    with pytest.raises(TemplateDoesNotExist, match=r"no-such\.msg"):
        render("mine.msg", {})


def test_fault_in_a_template_is_raised(templates):
    templates(**{"bad.msg": "{% block text %}{% endwith %}{% endblock %}"})

    with pytest.raises(TemplateSyntaxError):
        render("bad.msg", {})
