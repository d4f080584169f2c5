"""The WSGI application, for a web server in production."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lamson_project.settings")

application = get_wsgi_application()
