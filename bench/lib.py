"""What the scenes share: processes in a folder that goes away, the servers' configurations, load, and CPU time.

Everything listens on loopback on free ports. Whatever a scene started ends with it, also at Ctrl-C.
"""

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PATIENCE = 20  # seconds for anything to start or end
TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "taskset": "util-linux", "perf": "linux-perf", "strace": "strace"}
PATH = "/api/v1/bench/item"
BODY = json.dumps({"message": "ok", "items": [{"id": number, "name": f"parcel {number}", "state": "on its way"} for number in range(4)]})


def arguments(about):
    """A parser with what every scene takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("CARGOEXTRA", "target/release/cargoextra")
    parser.add_argument("--cargoextra", default=default, help="our binary; default: $CARGOEXTRA, else target/release/cargoextra")
    return parser


def need(*programs):
    """Ends the scene with advice when a program is missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({PACKAGES[it] for it in programs if not shutil.which(it)})
    if missing:
        sys.exit(f"missing; run: apt-get install --no-install-recommends {' '.join(missing)}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def machine():
    """One line for the head of a table."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, {time.strftime('%Y-%m-%d %H:%M')}"


class Scene:
    """A folder and the processes in it; both are gone at the end."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="cargoextra-bench-"))
        self.processes = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            end(process, 3)
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, name, command, port=None, core=None):
        """Starts a server, pinned to a core if one is given, and waits until it listens. Its output is in NAME.out."""
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CARGOEXTRA")}
        with open(self.folder / f"{name}.out", "ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=self.folder, env=environment, start_new_session=True)
        process.name = name
        self.processes.append(process)
        if port:
            until(lambda: process.poll() is not None or listens(port), f"{name} to listen")
        if process.poll() is not None:
            raise SystemExit(f"{name} did not start:\n{self.output(name)}")
        return process

    def load(self, *arguments, **named):
        """Starts wrk beside what the scene does; SIGINT ends it early, and its summary is then complete all the same."""
        process = subprocess.Popen(wrk_command(*arguments, **named), stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def output(self, name):
        return (self.folder / f"{name}.out").read_text(errors="replace")

    # ---- the servers

    def downstream(self, port, core=None):
        """An nginx that answers a fixed body. One process, so that one SIGKILL is its end."""
        locations = f"""
            location / {{ return 200 '{BODY}'; }}
            location /api/v1/bench/customer/who {{ return 200 '{{"account":"$http_x_account_id"}}'; }}"""
        config = nginx_config(self.folder, f"server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json; {locations} }}", "master_process off;")
        return self.start("downstream", ["nginx", "-c", str(self.write("downstream.conf", config))], port, core)

    def ours(self, name, binary, config, port, core=None, options=()):
        """`cargoextra serve` with a configuration file that `ours_config` made."""
        if not Path(binary).exists():
            raise SystemExit(f"there is no {binary}: run cargo build --release, or say where it is with --cargoextra or CARGOEXTRA")
        path = self.write(f"{name}.toml", config)
        return self.start(name, [str(Path(binary).resolve()), "serve", "--config", str(path), *options], port, core)


def ours_config(folder, name, port, admin, edge, access_log="off"):
    """A configuration of ours: its own data folder, SQLite, captured mail; `edge` is guard, limits and routes."""
    return f"""
[server]
listen = ["127.0.0.1:{port}"]
public_origin = "http://localhost:{port}"
data_dir = "{folder}/{name}"
[admin]
listen = "127.0.0.1:{admin}"
[database]
url = "sqlite://{folder}/{name}/bench.db"
[telemetry]
access_log = "{access_log}"
{edge}
"""


def nginx_config(folder, server, main=""):
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
daemon off; {user} {main} worker_processes 1; error_log stderr warn; pid {folder}/nginx-{free_port()}.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_timeout 60s; keepalive_requests 100000000; server_tokens off;
    {temporary}
    {server}
}}
"""


# ---- waiting and ending


def until(happens, what, patience=PATIENCE):
    """Waits for something, and gives back the true value that said so."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if value := happens():
            return value
        time.sleep(0.02)
    raise SystemExit(f"waited {patience} s for {what}")


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def end(process, patience=PATIENCE):
    """Ends one process that the scene started: politely, then not."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- HTTP


def call(port, path=PATH, method="GET", headers=None, body=None, source="127.0.0.1"):
    """One request on a connection of its own: (status, headers, text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    headers = dict(headers or {})
    if body is not None:
        headers["content-type"] = "application/json"
        body = json.dumps(body)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise SystemExit(f"FAILED: {method} {path} got no answer: {error!r}") from error
    finally:
        connection.close()


def sign_in(port, admin, email="ada@example.com", password="correct horse battery staple 7"):
    """Registers, verifies with the code of the captured mail, logs in: the headers of a token, and those of a cookie."""
    base = "/api/v1/user"

    def post(path, body):
        status, headers, text = call(port, f"{base}/{path}", "POST", body=body)
        if status not in (200, 201):
            raise SystemExit(f"{path}: {status} {text}")
        return headers, json.loads(text)

    post("register", {"email": email, "password": password})
    mails = until(lambda: json.loads(call(admin, f"/dev/mailbox/messages?to={email}")[2]), "the verification mail")
    code = re.search(r"\b[0-9A-Z]{5}-[0-9A-Z]{5}\b", mails[0]["text"])[0]
    post("verify-email", {"verifyToken": code})
    headers, body = post("login", {"email": email, "password": password})
    cookies = dict(it.split(";")[0].split("=", 1) for it in headers.get_all("set-cookie"))
    return {"authorization": f"Bearer {body['token']}"}, {"cookie": f"customerToken={cookies['customerToken']}"}


class Client(threading.Thread):
    """Asks on one keep-alive connection (`fresh`: on a new one each time) until told to stop, and never tries again.

    Keeps (start, seconds, status or error, code, was the connection used before).
    """

    def __init__(self, port, stop, fresh=False, pause=0.005, timeout=30):
        super().__init__(daemon=True)
        self.port, self.stop, self.fresh, self.pause, self.timeout, self.seen = port, stop, fresh, pause, timeout, []

    def run(self):
        connection, reused = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout), False
        while not self.stop.is_set():
            start, code = time.monotonic(), ""
            try:
                connection.request("GET", PATH)
                answer = connection.getresponse()
                text = answer.read()
                outcome = answer.status
                if outcome != 200:
                    code = json.loads(text).get("code", "?")
            except (OSError, http.client.HTTPException, ValueError) as error:
                outcome = type(error).__name__
                connection.close()
            if self.fresh:
                connection.close()
            self.seen.append((start, time.monotonic() - start, outcome, code, reused))
            reused = connection.sock is not None
            self.stop.wait(self.pause)
        connection.close()


# ---- load and CPU


def wrk_command(url, seconds, connections=64, headers=None, core=None):
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    fields = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
    return [*pinned, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", *fields, url]


def wrk(*arguments, **named):
    """Runs wrk to its end: what it counted."""
    return wrk_counted(subprocess.run(wrk_command(*arguments, **named), capture_output=True, text=True, check=True).stdout)


def wrk_counted(text):
    """wrk's summary as figures; `failed` is its socket errors and answers that are not 2xx or 3xx."""
    requests = re.search(r"(\d+) requests in ", text)
    if not requests:
        raise SystemExit(f"wrk said: {text}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    scale = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", text)
    return {
        "requests": int(requests[1]),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p99": float(p99[1]) * scale[p99[2]],
        "errors": sum(map(int, errors.groups())) if errors else 0,
        "refused": int(refused[1]) if refused else 0,
        "text": text,
    }


def cpu_us(pid):
    """Microseconds of CPU that a process and all its children have used: utime + stime of each, all threads."""
    parents, used = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        child = int(entry.parent.name)
        parents[child], used[child] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {it for it, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used[it] for it in family) * 1_000_000 // TICKS


def busy_us():
    """Microseconds of CPU that the whole machine has spent: what a round does not explain was somebody else's."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) * 1_000_000 // TICKS


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
