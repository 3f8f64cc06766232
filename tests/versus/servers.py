"""The servers that are measured side by side: starting, stopping, holding still, and what the kernel says about them.

Paths come from the environment: SHOAL (default: this build's release binary), REDIS7 (default: redis-server on PATH),
REDIS8, VALKEY. A peer that is not there is left out.
"""

import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
LOAD = os.path.join(TARGET, "release", "load")
OURS = "shoal"
SERVER_CPU, LOAD_CPU = "0", "1"
PATIENCE_S = 60


def found(needs_load=True):
    """Name and path of every server that is there, ours first."""
    paths = {
        OURS: os.environ.get("SHOAL", os.path.join(TARGET, "release", "shoal-server")),
        "redis7": os.environ.get("REDIS7", "redis-server"),
        "redis8": os.environ.get("REDIS8", ""),
        "valkey": os.environ.get("VALKEY", ""),
    }
    there = {name: shutil.which(path) for name, path in paths.items() if path and shutil.which(path)}
    if OURS not in there:
        raise SystemExit(f"there is no server at {paths[OURS]}: cargo build --release -p node -p tests --bins")
    if needs_load and not os.path.exists(LOAD):
        raise SystemExit(f"there is no load generator at {LOAD}: cargo build --release -p tests --bins")
    return there


def benchmark():
    """valkey-benchmark beside the Valkey that was built, else redis-benchmark."""
    beside = os.path.join(os.path.dirname(os.environ.get("VALKEY", "")), "valkey-benchmark")
    tool = beside if os.path.exists(beside) else shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")
    if not tool:
        raise SystemExit("neither valkey-benchmark nor redis-benchmark is here: apt-get install redis-tools")
    return tool


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def encode(words):
    words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def reply(stream):
    """The next reply; an error is raised as RuntimeError."""
    line = stream.readline()
    if not line:
        raise RuntimeError("the connection was closed")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RuntimeError(rest.decode("latin1"))
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2].decode("latin1")
    if kind == b"*":
        return None if rest == b"-1" else [reply(stream) for _ in range(int(rest))]
    return rest.decode("latin1")


class Server:
    """A fresh server in a folder of its own, without persistence. Killed by `stop`."""

    def __init__(self, name, path, options=(), cpus=SERVER_CPU):
        self.name, self.port = name, free_port()
        self.dir = tempfile.mkdtemp(prefix=f"versus-{name}-")
        command = [path, "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", self.dir, "--loglevel", "warning", *options]
        pinned = ["taskset", "-c", cpus] if cpus else []
        with open(os.path.join(self.dir, "log"), "wb") as log:
            self.process = subprocess.Popen([*pinned, *map(str, command)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                with open(os.path.join(self.dir, "log"), errors="replace") as log:
                    raise SystemExit(f"{name} did not start: {log.read()[-1000:]}")
            time.sleep(0.02)

    def _answers(self):
        try:
            return self.call("PING") == "PONG"
        except (OSError, RuntimeError):
            return False

    def call(self, *words):
        with socket.create_connection(("127.0.0.1", self.port), 300) as s:
            s.sendall(encode(words))
            return reply(s.makefile("rb"))

    def knows(self, *words):
        """Whether the command is there; it may fail for other reasons."""
        try:
            self.call(*words)
        except RuntimeError as error:
            return "unknown command" not in str(error).lower()
        return True

    def info(self, field):
        lines = self.call("INFO", "everything").split("\r\n")
        return next((line.split(":", 1)[1] for line in lines if line.startswith(field + ":")), None)

    def version(self):
        kind = "valkey_version" if self.name == "valkey" else "redis_version"
        return self.info(kind) or "?"

    # What the kernel counts.

    def _tasks(self, file):
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/{file}"):
            try:
                with open(path) as f:
                    yield f.read()
            except OSError:
                pass  # a thread that has just ended

    def cpu_ns(self):
        """CPU time of all threads, in ns: finer than the clock ticks of /proc/PID/stat."""
        return sum(int(text.split()[0]) for text in self._tasks("schedstat"))

    def switches(self):
        """Context switches of all threads, voluntary and not."""
        return sum(int(line.split()[1]) for text in self._tasks("status")
                   for line in text.splitlines() if "ctxt_switches" in line)

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))

    def settled_rss(self, at_most_s=10):
        """Resident bytes once they have not moved for a second."""
        end, last, since = time.monotonic() + at_most_s, self.rss(), time.monotonic()
        while time.monotonic() < end and time.monotonic() - since < 1:
            time.sleep(0.1)
            now = self.rss()
            # A page more or less is a timer of the server's.
            if abs(now - last) > 64 * 1024:
                last, since = now, time.monotonic()
        return self.rss()

    # Standing still, so that only one is measured at a time.

    def hold(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    # Load.

    def load(self, *args, cpu=LOAD_CPU):
        """Runs the load generator; what it prints."""
        pinned = ["taskset", "-c", cpu] if cpu else []
        mode, rest = args[0], args[1:]
        done = subprocess.run([*pinned, LOAD, mode, str(self.port), *map(str, rest)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def fill(self, count, template, seed=1):
        result = self.load("fill", count, template, "--seed", seed)
        if result["errors"]:
            raise RuntimeError(f"{self.name}: {template}: {result['first_error']}")


def start_all(servers, options=(), cpus=SERVER_CPU):
    """Every server, each held still."""
    started = []
    for name, path in servers.items():
        server = Server(name, path, options if name == OURS else (), cpus)
        server.hold()
        started.append(server)
    return started


def in_turn(started, round_number):
    """The servers in an order that alternates by round; each goes on while it is its turn."""
    for server in started if round_number % 2 == 0 else reversed(started):
        server.go_on()
        try:
            yield server
        finally:
            server.hold()


@contextlib.contextmanager
def cleared(cpu=SERVER_CPU):
    """Moves every thread that may be moved off a CPU, and back at the end. The kernel's own are not idle: its watch over
    memory takes one and a half milliseconds twice a second, which is more than a thousandth of the time."""
    moved = {}
    for task in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        tid = int(os.path.basename(task))
        with contextlib.suppress(OSError):  # it has ended, or may not be moved
            before = os.sched_getaffinity(tid)
            if int(cpu) in before and len(before) > 1:
                os.sched_setaffinity(tid, before - {int(cpu)})
                moved[tid] = before
    try:
        yield
    finally:
        for tid, before in moved.items():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(tid, before)


def steal_share(before=None):
    """The machine's clock ticks as (stolen, all), or the stolen share since `before`."""
    with open("/proc/stat") as f:
        ticks = [int(x) for x in f.readline().split()[1:9]]
    now = (ticks[7], sum(ticks))
    return now if before is None else (now[0] - before[0]) / max(1, now[1] - before[1])
