"""What books there are: HTTP before PostgreSQL, over a connection that is kept."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

import psycopg2

lock = Lock()
kept = None


def asked(question, values=()):
    """Once more over a new connection, if the kept one has ended."""
    global kept
    with lock:
        for is_last in (False, True):
            try:
                if kept is None:
                    kept = psycopg2.connect(
                        host="postgres", user="postgres", connect_timeout=3
                    )
                    kept.autocommit = True
                    kept.cursor().execute("create table if not exists books (title text)")
                cursor = kept.cursor()
                cursor.execute(question, values)
                return cursor.fetchall() if cursor.description else []
            except psycopg2.Error:
                kept = None
                if is_last:
                    raise


class Catalog(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/alive":
            return self.answer("alive\n")
        books = asked("select title from books order by title")
        self.answer("".join(f"{title}\n" for (title,) in books))

    def do_POST(self):
        title = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked("insert into books values (%s)", (title,))
        self.answer("noted\n")

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Catalog).serve_forever()
