"""The frame of every page: one file that asks nothing of a network."""

from __future__ import annotations

from html import escape

from rlhf_jax.studies import assets

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content security policy: no request whatever."""


def html(title: str, body: str, style: str = "") -> str:
    """A complete page around a body, in light and dark, from 390 px up.

    Args:
      title: of the page, plain text.
      body: HTML.
      style: CSS beside that of `assets`.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{assets.CSS}{style}</style></head>"
        f"<body>{body}<script>{assets.SCRIPT}</script></body></html>\n"
    )
