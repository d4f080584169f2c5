"""Lists and subscriptions, for the operator."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Count, Exists, OuterRef, QuerySet
from django.http import HttpRequest

from mailapp.models import Suppression

from .models import MailingList, Subscription


@admin.register(MailingList)
class MailingListAdmin(admin.ModelAdmin):
    list_display = ["address", "title", "subscribers", "is_open", "strangers", "created_at"]
    list_filter = ["is_open", "strangers", "host"]
    search_fields = ["name", "host", "title"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[MailingList]:
        return super().get_queryset(request).annotate(subscribers=Count("subscriptions"))

    @admin.display(ordering="subscribers")
    def subscribers(self, mailing_list: MailingList) -> int:
        return mailing_list.subscribers  # type: ignore[attr-defined]


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    list_display = ["address", "mailing_list", "joined_at", "suppressed"]
    list_filter = ["mailing_list"]
    list_select_related = ["mailing_list"]
    search_fields = ["address"]
    autocomplete_fields = ["mailing_list"]
    date_hierarchy = "joined_at"
    readonly_fields = ["joined_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Subscription]:
        to_them = Suppression.objects.active().filter(address=OuterRef("address"))
        return super().get_queryset(request).annotate(suppressed=Exists(to_them))

    @admin.display(boolean=True, description="suppressed")
    def suppressed(self, subscription: Subscription) -> bool:
        return subscription.suppressed  # type: ignore[attr-defined]
