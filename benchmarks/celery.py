"""The Celery app of the benchmarks: `celery -A benchmarks worker`."""

from celery import Celery

app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
