"""What gunicorn loads: ``gateway.wsgi:app``."""

from __future__ import annotations

import os

from core import logging
from core.store import Store, connect
from gateway.app import create_app
from gateway.environment import read_settings

settings = read_settings(os.environ)
logging.configure("gateway", settings.log_format)
app = create_app(settings, Store(connect(settings.store_url)))
