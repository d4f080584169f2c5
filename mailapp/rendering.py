"""Mail templates: blocks `subject`, `text` and, if wanted, `html` in one Django template."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from django.template import Context, Template
from django.template.base import Node
from django.template.loader import get_template
from django.template.loader_tags import BLOCK_CONTEXT_KEY, BlockContext, BlockNode, ExtendsNode

from mailapp.mime import one_line


class Rendered(NamedTuple):
    """The parts of a rendered template; a part that it does not have is ""."""

    subject: str
    text: str
    html: str


def render(template: str, context: Mapping[str, Any]) -> Rendered:
    """Render a mail template; only its HTML is escaped.

    Raise TemplateDoesNotExist for an unknown template.
    """
    compiled: Template = get_template(template).template  # type: ignore[attr-defined]
    values = Context(dict(context))
    with values.render_context.push_state(compiled), values.bind_template(compiled):
        blocks = values.render_context[BLOCK_CONTEXT_KEY] = BlockContext()
        _find_blocks(compiled, blocks, values)
        html = _block("html", blocks, values)
        values.autoescape = False
        return Rendered(
            one_line(_block("subject", blocks, values)),
            _block("text", blocks, values).strip("\n") + "\n",
            html,
        )


def _find_blocks(template: Template, blocks: BlockContext, context: Context) -> None:
    """Find the blocks of a template, then those of the one that it extends, if it does."""
    blocks.add_blocks({node.name: node for node in _nodes(template, BlockNode)})
    for node in _nodes(template, ExtendsNode):
        _find_blocks(node.get_parent(context), blocks, context)


@lru_cache  # as long as Django keeps a template, it has the same nodes
def _nodes(template: Template, kind: type[Node]) -> list[Any]:
    return template.nodelist.get_nodes_by_type(kind)


def _block(name: str, blocks: BlockContext, context: Context) -> str:
    block = blocks.get_block(name)
    return str(block.render(context)) if block else ""
