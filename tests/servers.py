"""Tracking servers as they are on bad days: real sockets, and so little of MLflow's protocol as a run needs."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INFO = {"run_id": "abc", "run_uuid": "abc", "experiment_id": "1", "status": "RUNNING", "start_time": 0}
RUN = {"run": {"info": {**INFO, "artifact_uri": "unused"}, "data": {}}}
ANSWERS = {
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "tests", "lifecycle_stage": "active"}},
    "runs/search": {"runs": []},
    "runs/create": RUN,
    "runs/get": RUN,
    "runs/update": {"run_info": INFO},
    "runs/log-batch": {},
    "runs/log-inputs": {},
}


class Server(ThreadingHTTPServer):
    """Remembers what it was sent; while `awake` is not set, it takes connections and answers none."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Conversation)
        self.calls, self.awake, self.sleeps_but_for, self.status = [], threading.Event(), None, 200
        self.awake.set()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, call):
        return [body for name, body in self.calls if name == call]

    def steps(self, key):
        metrics = [metric for body in self.sent("runs/log-batch") for metric in body.get("metrics", [])]
        return [metric["step"] for metric in metrics if metric["key"] == key]


class Conversation(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.split("?")[0].removeprefix("/api/2.0/mlflow/")
        if name != self.server.sleeps_but_for:
            self.server.awake.wait(60)
        self.server.calls.append((name, json.loads(body) if body else {}))
        content = json.dumps(ANSWERS.get(name, {})).encode()
        try:
            self.send_response(self.server.status if name in (*ANSWERS, "/health") else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # who asked has given up

    def log_message(self, *arguments):
        pass


@contextmanager
def running():
    """A server that answers."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.awake.set()
        server.shutdown()
        server.server_close()


@contextmanager
def silent():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def absent():
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class MLflowServer:
    """`mlflow server` on SQLite, with artifacts by its proxy; can be killed and started again."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.folder, self.uri, self.process = folder, f"http://127.0.0.1:{port}", None
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
        self.command = [*command, "--artifacts-destination", str(folder / "artifacts")]

    def start(self):
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None
