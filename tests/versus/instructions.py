#!/usr/bin/env python3
"""Instructions per GET and SET of the release server, counted by valgrind's callgrind: the same on every machine and run.

Each command runs twice, with different counts; the difference cancels what start-up and end cost. The figures stand in
instructions.json beside this file. More than 3 % above it fails; more than 3 % below asks for the new figure, with --update.
What the kernel does is not counted. Two runs differ by 0.1 %.

usage: instructions.py [--update | --show COUNT]   (--show: the COUNT most expensive functions)
"""

import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import servers as s

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instructions.json")
PIPELINE, KEYS, WARM = 16, 1000, 2000
FEW, MANY = 10_000, 110_000
# The worker's rounds of background work: ten a second by the clock, while valgrind slows everything else down.
TIMED = ("engine::expire::cycle",)
TOLERANCE = 0.03
COMMANDS = {
    "GET": lambda i: ("GET", f"key:{i % KEYS:012}"),
    "SET": lambda i: ("SET", f"key:{i % KEYS:012}", "x" * 64),
}


class Counted:
    """A server under callgrind, with one worker."""

    def __init__(self, binary):
        self.dir = tempfile.mkdtemp(prefix="versus-callgrind-")
        self.port = s.free_port()
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.dir}/out.%p", binary,
                   "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.dir,
                   "--workers", 1, "--databases", 1, "--loglevel", "warning"]
        self.log = open(os.path.join(self.dir, "log"), "wb")
        self.process = subprocess.Popen(list(map(str, command)), stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + s.PATIENCE_S
        while True:
            try:
                self.link = socket.create_connection(("127.0.0.1", self.port), s.PATIENCE_S)
                self.stream = self.link.makefile("rb")
                self.link.sendall(s.encode(("PING",)))
                s.reply(self.stream)
                break
            # It listens before it has loaded.
            except (OSError, RuntimeError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.fail("did not start")
                time.sleep(0.05)

    def fail(self, why):
        with open(os.path.join(self.dir, "log"), errors="replace") as log:
            raise SystemExit(f"the server under valgrind {why}: {log.read()[-2000:]}")

    def run(self, command, count):
        """`count` commands, in windows of the pipeline's length."""
        for start in range(0, count, PIPELINE):
            batch = [s.encode(command(i)) for i in range(start, min(start + PIPELINE, count))]
            self.link.sendall(b"".join(batch))
            for _ in batch:
                s.reply(self.stream)

    def end(self):
        """Stops the server; the path of what was counted."""
        self.link.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(s.PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.fail("did not end")
        files = [f for f in glob.glob(f"{self.dir}/out.*") if not f.endswith("-01")]
        if len(files) != 1:
            self.fail("wrote no counts")
        return files[0]


def by_function(path):
    """Function to its own instructions."""
    text = subprocess.run(["callgrind_annotate", "--threshold=100", "--auto=no", path], capture_output=True, text=True)
    functions = {}
    for number, _, name in re.findall(r"^ *([\d,]+) \([ \d.]+%\)  ([^: ]+:)?(.*)$", text.stdout, re.M):
        name = name.split(" [")[0]
        if name != "PROGRAM TOTALS":
            functions[name] = functions.get(name, 0) + int(number.replace(",", ""))
    if not functions:
        raise SystemExit(f"{path} has no counts: {text.stderr}")
    return functions


def total(functions):
    """Without the timed rounds, whose number depends on how long the run took."""
    return sum(n for name, n in functions.items() if not name.startswith(TIMED))


def count(binary, name, times):
    """Instructions by function of a server that starts, gets its keys and `times` commands, and ends."""
    server = Counted(binary)
    server.run(COMMANDS["SET"], KEYS)
    server.run(COMMANDS[name], WARM + times)
    functions = by_function(server.end())
    shutil.rmtree(server.dir, ignore_errors=True)
    return functions


def measure(binary):
    """Instructions per command. The runs share the CPUs: counts do not mind company."""
    jobs = [(name, times) for name in COMMANDS for times in (FEW, MANY)]
    counts, turn = {}, threading.Semaphore(2)

    def one(job):
        with turn:
            counts[job] = total(count(binary, *job))

    threads = [threading.Thread(target=one, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != len(jobs):
        raise SystemExit("a run failed, see above")
    return {name: round((counts[name, MANY] - counts[name, FEW]) / (MANY - FEW), 1) for name in COMMANDS}


def show(binary, functions):
    """Where the instructions of a command are spent."""
    for name in COMMANDS:
        many, few = count(binary, name, MANY), count(binary, name, FEW)
        each = {f: (n - few.get(f, 0)) / (MANY - FEW) for f, n in many.items()}
        print(f"--- {name}: {total(each):.0f} instructions")
        for function, n in sorted(each.items(), key=lambda x: -x[1])[:functions]:
            print(f"{n:8.1f}  {function}")


def main():
    binary = s.found(needs_load=False)[s.OURS]
    if "--show" in sys.argv:
        return show(binary, int(sys.argv[sys.argv.index("--show") + 1]))
    begun = time.monotonic()
    now = measure(binary)
    with open(FILE) as f:
        agreed = json.load(f)
    failed = False
    for name, value in now.items():
        ratio = value / agreed[name] if agreed.get(name) else float("inf")
        verdict = "ok"
        if ratio > 1 + TOLERANCE:
            verdict, failed = "TOO MANY", True
        elif ratio < 1 - TOLERANCE:
            verdict = "fewer: run with --update to keep it so"
        print(f"{name}: {value} instructions, agreed {agreed.get(name)}, {ratio:.3f}x  {verdict}")
    print(f"took {time.monotonic() - begun:.0f} s")
    if "--update" in sys.argv:
        with open(FILE, "w") as f:
            json.dump(now, f, indent=1)
            f.write("\n")
        return
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
