"""A web server on this machine, with the faults that real ones have."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """What the server has, and what it was asked.

    Attributes:
        pages: path to bytes, to a status, to ("redirect", address), or to a function of the handler.
        asked: (path, headers) of each request, in order.
        cut: bytes of a body after which the connection breaks, for the next requests; one a request.
        ranges: whether range requests are honoured.
    """

    def __init__(self):
        self.pages, self.asked, self.cut = {}, [], []
        self.ranges, self.etag, self.headers = True, '"v1"', {}
        self.lock = threading.Lock()
        self.busy = self.most = 0

    @property
    def paths(self):
        return [path for path, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.site
        with site.lock:
            site.asked.append((self.path, dict(self.headers)))
            site.busy += 1
            site.most = max(site.most, site.busy)
        try:
            page = site.pages.get(self.path, 404)
            if callable(page):
                page = page(self)
            if isinstance(page, tuple):
                self.answer(302, {"Location": page[1]})
            elif isinstance(page, int):
                self.answer(page, {**site.headers})
            elif page is not None:
                self.body(page)
        finally:
            with site.lock:
                site.busy -= 1

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, data):
        site = self.site
        start, whole = 0, len(data)
        asked = self.headers.get("Range")
        if asked and site.ranges and self.headers.get("If-Range") == site.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= whole:
                self.answer(416, {"Content-Range": f"bytes */{whole}"})
                return
        headers = {"Content-Length": str(whole - start)}
        if site.etag:
            headers["ETag"] = site.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        self.answer(206 if start else 200, headers)
        end = start + site.cut.pop(0) if site.cut else whole
        self.wfile.write(data[start:end])
        if end < whole:
            self.close_connection = True


@contextmanager
def serve():
    """The site, and the address of its root."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
