"""Serves the function's handler on loopback, behind the watchdog."""

import http.server

from function import handler


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = handler.handle(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Server).serve_forever()
