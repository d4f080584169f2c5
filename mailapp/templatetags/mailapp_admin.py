"""What the templates of the operator's pages use."""

from __future__ import annotations

from typing import Any

from django import template

from mailapp import ages, counting
from mailapp.admin import display
from mailapp.mime import visible
from mailapp.overview import Overview

register = template.Library()

_SHOWN = ["mailapp.view_queue", "mailapp.view_delivery", "mailapp.view_process"]

register.filter(display.address)
register.filter(display.badge)
register.filter(ages.distance)
register.filter(ages.duration)
register.filter(display.link)
register.filter(display.moment)
register.filter(display.problem_url)
register.filter(display.stranger)
register.filter(visible)
register.filter(counting.capped)


@register.inclusion_tag("admin/mailapp/overview.html", takes_context=True)
def mail_overview(context: template.Context) -> dict[str, Any]:
    """Say whether the mail is well, to whom may see all that it shows."""
    if not context["request"].user.has_perms(_SHOWN):
        return {}
    overview = Overview.now()
    return {"overview": overview, "problems": list(overview.problems())}
