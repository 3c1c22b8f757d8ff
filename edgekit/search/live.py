"""The report of a running study over HTTP, on this machine only.

Bound to 127.0.0.1; requests that name another host are refused, so that no web page elsewhere can
read it by way of a name that points here.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, InputError

#: Seconds that a rendered page is good for: browsers may ask as often as they like.
_FRESH_S = 1.0


class LiveServer:
    """Serves ``/`` (the page), ``/version`` and ``/study.json`` from a thread until closed."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            server_version = "edgekit"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the terminal belongs to the search."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as e:
            raise InputError(f"port {port} cannot be served ({e.strerror or e})") from None
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        pages = {"/": "text/html", "/version": "text/plain", "/study.json": "application/json"}
        host = handler.headers.get("Host", "")
        path = handler.path.partition("?")[0]
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            handler.send_error(403)
            return
        if path not in pages:
            handler.send_error(404)
            return
        try:
            body = self._page(path).encode()
        except EdgekitError as e:
            handler.send_error(503, str(e)[:200])
            return
        handler.send_response(200)
        handler.send_header("Content-Type", f"{pages[path]}; charset=utf-8")
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Cache-Control", "no-store")
        handler.end_headers()
        handler.wfile.write(body)

    def _page(self, path: str) -> str:
        from edgekit.artifact import json_text
        from edgekit.report.study_page import render_study, version_of
        from edgekit.search.study import Study

        with self._lock:
            made, text = self._kept.get(path, (0.0, ""))
            if time.monotonic() - made < _FRESH_S and text:
                return text
            if path == "/":
                text = render_study(self.folder, live=True)
            elif path == "/version":
                text = version_of(self.folder)
            else:
                text = json_text(Study.open(self.folder).to_json())
            self._kept[path] = (time.monotonic(), text)
            return text
