"""What a person sees in a browser when a service is interrupted (requirement A10): one short page that needs nothing else."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from html import escape

_STYLE = (
    "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:38rem;margin:12vh auto;padding:0 1.2rem;color:#1c2430;background:#fff}"
    "h1{font-size:1.6rem;line-height:1.25}dt{font-weight:600}dd{margin:0 0 .6rem}"
    "@media (prefers-color-scheme:dark){body{color:#e6e9ee;background:#14181f}}"
)
_SCRIPT = """
const place = JSON.parse(document.getElementById("place").textContent);
async function wait() {
  for (;;) {
    try {
      const answer = await fetch(place + "?wait=20", {cache: "no-store"});
      if (!answer.ok) throw new Error(answer.status);
      if ((await answer.json()).lifecycle !== "DELAY") return location.reload();
    } catch {
      await new Promise(done => setTimeout(done, 5000));
      return location.reload();
    }
  }
}
wait();
"""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


CSP = (
    f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'"
)
"""The policy under which the page does what it does, and nothing else."""


def page(
    *,
    lifecycle: str,
    service: str,
    detail: str,
    since: datetime | None,
    method: str,
    certain: bool,
    place: str,
    retry_after: int,
) -> str:
    """The page.

    Args:
        lifecycle: DELAY or MISSING.
        service: What is not there, in words that its users may know.
        detail: Why.
        since: Since when, or None.
        method: The request's; only a GET is repeated by the page itself.
        certain: Whether the request was surely not carried out.
        place: Where to wait for the end of a DELAY, or empty.
        retry_after: Seconds until the page reloads where scripts do not run.
    """
    reloads = lifecycle == "DELAY" and method == "GET"
    title = "Service interrupted" if lifecycle == "DELAY" else "Service not available"
    if lifecycle == "DELAY":
        what = f"{service} is not available for a moment."
    else:
        what = f"{service} is not available now, and it is not known when it will be."
    facts = f"<dt>Why</dt><dd>{escape(detail)}</dd>"
    if since is not None:
        facts += (
            f'<dt>Since</dt><dd><time datetime="{since.isoformat()}">{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time></dd>'
        )
    head = f'<noscript><meta http-equiv="refresh" content="{retry_after}"></noscript>' if reloads else ""
    script = ""
    if reloads and place:
        script = f'<script type="application/json" id="place">{_json(place)}</script><script>{_SCRIPT}</script>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">{head}'
        f'<style>{_STYLE}</style></head><body><main><h1>{title}</h1><p role="status">{escape(what)}'
        f" {_what_became(reloads=reloads, promised=lifecycle == 'DELAY', certain=certain, method=method)}</p>"
        f"<dl>{facts}</dl></main>{script}</body></html>"
    )


def prefers_html(accept: str | None) -> bool:
    """Whether a requester would rather have a page than JSON: it names `text/html`, and JSON not at least as high (RFC 9110)."""
    if not accept or "text/html" not in accept.lower():
        return False
    html = other = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value.strip())
        if kind == "text/html":
            html = max(html, quality)
        elif kind in ("application/json", "application/problem+json"):
            other = max(other, quality)
    return html > other


def _what_became(*, reloads: bool, promised: bool, certain: bool, method: str) -> str:
    if not certain:
        return "It is not known whether your last request was carried out: please look before you send it again."
    if reloads:
        return "Nothing was lost. This page comes back by itself as soon as the service does."
    if method in ("GET", "HEAD"):
        return "Nothing was changed. Please try again later."
    when = "in a moment" if promised else "later"
    return f"Nothing was lost: what you sent was not carried out. Please go back and send it again {when}."


def _quality(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if 0 <= found <= 1 else 0.0


def _json(value: str) -> str:
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
