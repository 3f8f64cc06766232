"""Runs units of the suite, each in a folder, a range of ports and a session of its own, and reads what it prints."""

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid

import lists

PORTS = 400
STEP = PORTS + 50  # from one unit's ports to the next one's
FIRST_PORT, LAST_PORT = 12000, 22000  # with the bus 10000 above, below the ephemeral ports
STALL = 150  # seconds without progress after which the suite itself gives up
MARK = "REDIS_SUITE_RUN"
RUNNING = {}  # folders of the units that run, by their marks
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Result:
    """What became of a unit's tests. `end`: why it ended early, or nothing."""

    def __init__(self, unit):
        self.unit, self.seconds, self.end = unit, 0.0, ""
        self.passed, self.failed, self.skipped = [], [], []


class Runner:
    def __init__(self, suite, server, folder, limit, is_resp3, directives, skips, logs, certificates):
        self.suite, self.server, self.folder, self.limit = suite, server, folder, limit
        self.is_resp3, self.directives, self.skips, self.logs = is_resp3, directives, skips, logs
        # A folder; None: the suite speaks plain TCP.
        self.certificates = certificates
        # Two runs on one machine seldom begin at the same place.
        ranges = (LAST_PORT - FIRST_PORT) // STEP
        self.next_port, self.lock = FIRST_PORT + os.getpid() * 7 % ranges * STEP, threading.Lock()

    def run_all(self, units, jobs, report):
        results = {}
        with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            for done in concurrent.futures.as_completed([pool.submit(self.run, unit) for unit in units]):
                result = done.result()
                results[result.unit] = result
                report(result)
        return [results[unit] for unit in sorted(results)]

    def run(self, unit):
        result = Result(unit)
        whole = self.skips.reason(unit, "*")
        if whole:
            result.skipped.append(("*", whole))
            return result
        began = time.monotonic()
        ordered = lists.ordered(unit)
        skipped = [("--skiptest", name) for name in [*self.skips.names(unit), *ordered]]
        self.run_part(result, unit, skipped, ())
        if ordered:
            rest = Result(unit)
            self.run_part(rest, unit, [("--only", name) for name in ordered], [("workers", "1")])
            result.passed += rest.passed
            result.failed += rest.failed
            result.end = result.end or rest.end
        result.seconds = time.monotonic() - began
        return result

    def run_part(self, result, unit, choice, directives):
        """Runs the tests of a unit that `choice` leaves."""
        folder = self.stage(unit)
        output = os.path.join(folder, "output")
        result.end = self.spawn(unit, folder, output, choice, directives)
        with open(output, errors="replace") as text:
            read(text.read(), result)
        if self.logs:
            kept = os.path.join(self.logs, unit.replace("/", "-") + ("-ordered" if directives else ""))
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("socket"))
        shutil.rmtree(folder, ignore_errors=True)

    def stage(self, unit):
        """A folder that looks like the unpacked source, whose redis-server is ours."""
        folder = os.path.join(self.folder, unit.replace("/", "-"))
        os.makedirs(os.path.join(folder, "src"))
        os.makedirs(os.path.join(folder, "tests", "tmp"))
        os.symlink(self.server, os.path.join(folder, "src", "redis-server"))
        for tool in ("redis-cli", "redis-benchmark"):
            os.symlink(shutil.which(tool), os.path.join(folder, "src", tool))
        os.symlink(self.suite.path("utils"), os.path.join(folder, "utils"))
        for name in os.listdir(self.suite.path("tests")):
            if name not in ("tmp", "tls"):
                os.symlink(self.suite.path("tests", name), os.path.join(folder, "tests", name))
        if self.certificates:
            os.symlink(self.certificates, os.path.join(folder, "tests", "tls"))
        return folder

    def spawn(self, unit, folder, output, choice, directives):
        """Runs the unit; says why it did not come to its end, if so."""
        mark = uuid.uuid4().hex
        RUNNING[mark] = folder
        prelude = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prelude.tcl")
        command = [self.suite.tclsh, prelude,
                   "--single", unit, "--clients", "1", "--durable", "--timeout", str(STALL),
                   "--baseport", str(self.ports()), "--portcount", str(PORTS), "--dont-clean"]
        for name, value in [*lists.directives(unit), *self.directives, *directives]:
            command += ["--config", name, value]
        if self.certificates:
            command += ["--tls"]
        protocol = {"SUITE_RESP3": "1"} if self.is_resp3 else {}
        for option in choice:
            command += option
        with open(output, "w") as out:
            child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT,
                                     stdin=subprocess.DEVNULL, start_new_session=True,
                                     env={**os.environ, MARK: mark, "LC_ALL": "C", **protocol})
            try:
                child.wait(self.limit)
                return "" if child.returncode in (0, 1) else f"status {child.returncode}"
            except subprocess.TimeoutExpired:
                return f"took longer than {self.limit} s"
            finally:
                kill(lambda: os.killpg(child.pid, signal.SIGKILL))
                child.wait()
                sweep(mark, folder)
                RUNNING.pop(mark, None)

    def ports(self):
        """The first port of a range that nobody seems to use."""
        with self.lock:
            while True:
                base, self.next_port = self.next_port, self.next_port + STEP
                if self.next_port > LAST_PORT:
                    self.next_port = FIRST_PORT
                first = base + 40
                if is_free(first - 32) and all(is_free(port) for port in range(base, base + PORTS, 20)):
                    return first  # the suite itself listens 32 below


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def kill(act):
    try:
        act()
    except (ProcessLookupError, PermissionError):
        pass


def sweep(mark, folder):
    """Ends what a unit left behind, such as servers that went into the background: they inherited its mark. Where a server
    has written its title over that, it still works in the unit's folder."""
    wanted = f"{MARK}={mark}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:
                is_ours = wanted in environment.read().split(b"\0")
            if is_ours or os.readlink(f"/proc/{pid}/cwd").startswith(os.path.realpath(folder) + os.sep):
                kill(lambda: os.kill(int(pid), signal.SIGKILL))
        except OSError:
            pass


def end_all():
    """Ends all that run."""
    for mark, folder in list(RUNNING.items()):
        sweep(mark, folder)


def read(text, result):
    """Sorts a unit's output into the result. A name that comes again has a number behind it, passed and failed apart."""
    lines = COLOURS.sub("", text).splitlines()
    for at, line in enumerate(lines):
        if found := re.match(r"\[ok\]: (.*) \(\d+ ms\)$", line):
            result.passed.append(numbered(result.passed, found[1]))
        elif found := re.match(r"\[err\]: (.*) in tests/\S+\.tcl$", line):
            names = [name for name, _ in result.failed]
            result.failed.append((numbered(names, found[1]), detail(lines, at)))
        elif found := re.match(r"\[(?:err|exception)\]: (.*)", line):
            result.failed.append(("outside of tests", f"{found[1]} {detail(lines, at)}".strip()))
        elif found := re.match(r"\[skip\]: (.*)", line):
            result.skipped.append(found[1])
        elif found := re.match(r"\[ignore\]: (.*)", line):
            result.skipped.append(found[1])
        elif re.match(r"\[TIMEOUT\]", line):
            result.end = "no progress: " + " ".join(l for l in lines[at:at + 4] if "IN PROGRESS" in l)
    if not result.end and not any(line.strip() == "The End" for line in lines):
        result.end = "died"
    if result.end:
        result.failed.append(("the rest of the unit", result.end))


def numbered(names, name):
    count = sum(1 for n in names if n == name or n.startswith(f"{name} #"))
    return name if count == 0 else f"{name} #{count + 1}"


def detail(lines, at):
    """What the suite says of a failure. Its first ten characters are missing unless it was an assertion; the trace, if
    there is one, begins with the whole."""
    following = [line for line in lines[at + 1:at + 3] if not line.startswith("[")]
    if len(following) == 2 and following[1].endswith(following[0]):
        return following[1][:400]
    return following[0][:400] if following else ""
