"""Suppressions: which addresses get no mail, why, and until when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp.addresses import fold
from mailapp.models import Suppression

from . import display
from .pages import MailAdmin


class StandingFilter(admin.SimpleListFilter):
    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        match self.value():
            case "active":
                return queryset.active()
            case "expired":
                return queryset.expired()
        return queryset


class SuppressionForm(ModelForm):
    """What is added by hand."""

    def clean_expires_at(self) -> datetime | None:
        """Refuse a moment that is over, which would suppress nothing."""
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise ValidationError("This is over already.")
        return expires_at


@admin.register(Suppression)
class SuppressionAdmin(MailAdmin):
    """Operators add and remove; nobody changes what a bounce said."""

    form = SuppressionForm
    list_display = ["shown_address", "cause", "why", "since", "until"]
    list_display_links = ["shown_address"]
    list_filter = [StandingFilter, "cause"]
    list_select_related = ["delivery"]
    search_fields = ["address"]
    search_help_text = "A whole address."
    fieldsets = [
        (None, {"fields": [("shown_address", "cause"), "why", "bounced"]}),
        ("Time", {"fields": [("since", "until")]}),
    ]
    add_fieldsets = [(None, {"fields": ["address", "reason", "expires_at"]})]

    has_add_permission = admin.ModelAdmin.has_add_permission
    has_delete_permission = admin.ModelAdmin.has_delete_permission

    def get_fieldsets(self, request: HttpRequest, obj: Suppression | None = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Suppression], search_term: str
    ) -> tuple[QuerySet[Suppression], bool]:
        """Find an address by the index."""
        address = fold(search_term.strip())
        return (queryset.filter(address=address) if address else queryset), False

    def save_model(
        self, request: HttpRequest, obj: Suppression, form: ModelForm[Suppression], change: bool
    ) -> None:
        obj.cause = Suppression.Cause.OPERATOR
        super().save_model(request, obj, form, change)

    @admin.display(description="address")
    def shown_address(self, row: Suppression) -> SafeString:
        return display.address(row.address)

    @admin.display(description="reason")
    def why(self, row: Suppression) -> SafeString:
        return display.stranger(row.reason)

    @admin.display(description="delivery that came back")
    def bounced(self, row: Suppression) -> SafeString | str:
        return display.link(row.delivery)

    @admin.display(description="since")
    def since(self, row: Suppression) -> SafeString | str:
        return display.moment(row.created_at)

    @admin.display(description="until")
    def until(self, row: Suppression) -> SafeString | str:
        if row.expires_at is None:
            return "for good"
        until = display.moment(row.expires_at)
        return format_html("{} <small>expired</small>", until) if row.is_expired else until
