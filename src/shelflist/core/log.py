"""The one logger. Libraries do not configure logging; the CLI does."""

import logging

log = logging.getLogger("shelflist")
