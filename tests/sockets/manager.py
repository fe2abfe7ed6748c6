"""A service manager that activates by socket, as systemd does: `manager.py BINARY PORT…` binds the ports of 127.0.0.1 once,
passes the sockets to `BINARY serve`, and does what it is told on standard input: `restart` or `stop`.

The process's output is passed on, standard error too; a line `ended CODE` says how it ended."""

import os
import signal
import socket
import subprocess
import sys
import threading

FIRST = 3  # SD_LISTEN_FDS_START

binary, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
sockets = [socket.create_server(("127.0.0.1", port), backlog=512) for port in ports]
# Out of the way of the numbers that the process is to see them under.
high = [os.dup2(bound.fileno(), 100 + index) for index, bound in enumerate(sockets)]
for bound in sockets:
    bound.close()


def start():
    # The shell becomes the process, so that LISTEN_PID can name it; it also moves the sockets to where they are expected.
    moves = " ".join(f"{FIRST + index}<&{fd} {fd}<&-" for index, fd in enumerate(high))
    script = f'LISTEN_PID=$$ LISTEN_FDS={len(high)} exec "$0" serve {moves}'
    return subprocess.Popen(["bash", "-c", script, binary], pass_fds=high, stderr=subprocess.STDOUT)


def end(process):
    process.send_signal(signal.SIGTERM)
    print(f"ended {process.wait()}", flush=True)


running = start()
told = threading.Event()


def watch():
    code = running.wait()
    if not told.is_set():
        print(f"ended {code}", flush=True)


threading.Thread(target=watch, daemon=True).start()
for line in sys.stdin:
    told.set()
    end(running)
    if line.strip() == "stop":
        break
    running = start()
if running.poll() is None:
    end(running)
