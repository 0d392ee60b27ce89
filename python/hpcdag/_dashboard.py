"""Addresses of dashboards: where a browser reaches them, and what may be shown.

Owns these texts; the scheduler says where its dashboard is.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def reachable(url: object) -> str:
    """The address by which the user's browser reaches a dashboard.

    Args:
        url: what the scheduler says, with the token; anything but a text counts as none.

    Returns:
        The same, or the path through JupyterHub's proxy where this process is in a JupyterHub and the
        dashboard listens on loopback only; empty without a dashboard.
    """
    if not isinstance(url, str) or not url:
        return ""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    parts = urlsplit(url)
    if not prefix or parts.hostname not in _LOOPBACK or parts.port is None:
        return url
    return f"{prefix.rstrip('/')}/proxy/{parts.port}/?{parts.query}"


def shown(link: str) -> str:
    """An address without what opens the dashboard, for what is kept and handed on, such as notebooks."""
    return link.split("?", 1)[0]
