"""A cluster of real processes for checks with stock clients. Talks to 127.0.0.1 only."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
SERVER = os.environ.get("SHOAL_SERVER", os.path.join(TARGET, "release", "shoal-server"))
PATIENCE_S = 60


def free_ports(count):
    """Ports whose bus ports (10000 above) are free as well."""
    ports, port = [], 21000
    while len(ports) < count:
        port += 1
        try:
            for p in (port, port + 10000):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", p))
            ports.append(port)
        except OSError:
            pass
    return ports


def wait(what, is_done, patience_s=PATIENCE_S):
    """Polls until `is_done` answers something true; gives that back."""
    deadline = time.monotonic() + patience_s
    last = None
    while time.monotonic() < deadline:
        try:
            result = is_done()
            if result:
                return result
        except (OSError, RuntimeError, ConnectionError) as error:
            last = error
        time.sleep(0.01)
    raise SystemExit(f"FAILED: waited {patience_s} s in vain for {what} (last: {last})")


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")


class Node:
    def __init__(self, port, directory, options):
        self.port, self.dir, self.options = port, directory, options
        self.process = None
        os.makedirs(directory, exist_ok=True)

    def start(self):
        command = [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir, "--save", "",
                   "--cluster-enabled", "yes", "--enable-debug-command", "yes", *map(str, self.options)]
        log = open(os.path.join(self.dir, "log"), "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def cli(self, *words, raw=True):
        """A command by redis-cli; its output without the line's end."""
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.port), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip())
        return done.stdout.rstrip("\n")

    def log(self):
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()


class Cluster:
    """Nodes in a folder of their own. Use as a context manager: all processes end with it."""

    def __init__(self, count, options=(), timeout_ms=1000):
        self.dir = tempfile.mkdtemp(prefix="shoal-stock-")
        self.options = ["--cluster-node-timeout", timeout_ms, "--workers", 1, *options]
        self.nodes = [self._node(port) for port in free_ports(count)]

    def _node(self, port):
        return Node(port, os.path.join(self.dir, str(port)), self.options)

    def __enter__(self):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait(f"node {node.port}", lambda: node.cli("PING") == "PONG")
        return self

    def __exit__(self, kind, error, trace):
        for node in self.nodes:
            if node.is_running():
                node.kill()
        if kind is None:
            shutil.rmtree(self.dir, ignore_errors=True)
        else:
            for node in self.nodes:
                print(f"--- log of {node.port}\n{node.log()[-2000:]}")
            print(f"files are kept in {self.dir}")

    def add_node(self):
        node = self._node(free_ports(len(self.nodes) + 1)[-1])
        self.nodes.append(node)
        node.start()
        wait(f"node {node.port}", lambda: node.cli("PING") == "PONG")
        return node

    def create(self, replicas):
        """`redis-cli --cluster create`, unchanged."""
        addresses = [f"127.0.0.1:{n.port}" for n in self.nodes]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2)
        check(done.returncode == 0 and "All 16384 slots covered" in done.stdout, f"cluster create: {done.stdout}{done.stderr}")
        self.wait_ok()
        return done.stdout

    def wait_ok(self):
        for node in self.nodes:
            if node.is_running():
                wait(f"{node.port} to see the cluster ok", lambda: "cluster_state:ok" in node.cli("CLUSTER", "INFO"))
                wait(f"{node.port} to follow", lambda: self._follows(node))
        first = next(n for n in self.nodes if n.is_running())
        if len(self.nodes) >= 3:
            wait("voters", lambda: "cluster_can_fail_over:yes" in first.cli("CLUSTER", "INFO"))

    def _follows(self, node):
        info = node.cli("INFO", "replication")
        return "role:master" in info or "master_link_status:up" in info

    def by_id(self, node_id):
        return next(n for n in self.nodes if n.is_running() and n.cli("CLUSTER", "MYID") == node_id)

    def primaries(self):
        return [n for n in self.nodes if n.is_running() and "role:master" in n.cli("INFO", "replication")
                and n.cli("CLUSTER", "NODES").split("myself")[1].split("\n")[0].count("connected ")]
