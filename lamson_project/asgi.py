"""The ASGI application, for a web server in production."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lamson_project.settings")

application = get_asgi_application()
