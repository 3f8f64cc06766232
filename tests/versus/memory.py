"""Resident bytes: per key or element over a fresh process, per idle connection, of an empty server, and after rewriting."""

import socket
import threading

import servers as s
from table import Table

MILLION = 1_000_000
# Label, bytes at most, how many, the command that makes one.
DATA = [
    ("string 16/16", 52, 2 * MILLION, "SET key:{i} value:{i:10}"),
    ("string 16/16 with TTL", 58, MILLION, "SET key:{i} value:{i:10} EX 100000"),
    ("string 16/64", 105, MILLION, "SET key:{i} {x:64}"),
    ("string 16/1000", 1085, 300_000, "SET key:{i} {x:1000}"),
    ("hash of 5 small fields", 125, 500_000,
     "HSET h:{i} f0 aaaaaaa0 f1 aaaaaaa1 f2 aaaaaaa2 f3 aaaaaaa3 f4 aaaaaaa4"),
    ("sorted set of a million", 48, MILLION, "ZADD z {p:1000000} member:{i:10}"),
    ("set of a million", 38, MILLION, "SADD s member:{i:10}"),
    ("hash of a million", 50, MILLION, "HSET h field:{i:10} value:{i:10}"),
    ("list of a million", 17.2, MILLION, "RPUSH l item:{i:10}"),
    ("stream of two fields", 13, 500_000, "XADD x * temp {m:40} hum {m:100}"),
]
CONNECTIONS, CONNECTION_AT_MOST = 1000, 0.5
EMPTY_AT_MOST = 1.0
CHURN = [("rewritten, 16..200 bytes", 16, 200), ("rewritten, 16..2000 bytes", 16, 2000)]
CHURN_ROUNDS, CHURN_AT_MOST = 10, 1.25


def run(found, _rounds, only):
    wanted = lambda label: only.lower() in label.lower()
    names = list(found)
    tables = []
    data = [d for d in DATA if wanted(d[0])]
    if data:
        per_key = Table("Memory", names, "resident bytes per key or element")
        accounted = Table("Memory as used_memory says", names, "bytes per key or element")
        for row in data:
            _data_set(found, row, per_key, accounted)
        tables += [per_key, accounted]
    process = Table("Memory of the process", names, "resident bytes")
    if wanted("idle connection"):
        process.ratio("idle connection", _each(found, _per_connection), CONNECTION_AT_MOST, digits=0)
    if wanted("empty server"):
        process.ratio("empty server, KiB", _each(found, lambda x: x.settled_rss() / 1024), EMPTY_AT_MOST, digits=0)
    if process.rows:
        tables.append(process)
    churn = Table("Fragmentation", names, f"resident bytes over used_memory after {CHURN_ROUNDS} rewrites of half the keys")
    for label, low, high in CHURN:
        if wanted(label):
            churn.absolute(label, _each(found, lambda x: _fragmentation(x, low, high)), CHURN_AT_MOST, digits=2)
    return tables + ([churn] if churn.rows else [])


def _each(found, measure):
    """A figure of a fresh process of every server; all at once, since bytes do not mind company."""
    started = [s.Server(name, path, cpus=None) for name, path in found.items()]
    values = {}

    def one(server):
        values[server.name] = measure(server)

    threads = [threading.Thread(target=one, args=(x,)) for x in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in started:
        server.stop()
    if len(values) != len(started):
        raise SystemExit("a measurement failed, see above")
    return values


def _data_set(found, row, per_key, accounted):
    label, at_most, count, template = row
    command = template.split(" ")[0]

    def measure(server):
        if not server.knows(command):
            return None
        # The first thousandth pays for pages of the program that the command is the first to need.
        server.load("fill", count // 1000, template, cpu=None)
        resident, used = server.settled_rss(), int(server.info("used_memory"))
        server.load("fill", count, template, cpu=None)
        return (server.settled_rss() - resident) / count, (int(server.info("used_memory")) - used) / count

    values = {n: v for n, v in _each(found, measure).items() if v}
    if s.OURS not in values:
        per_key.skipped(label, f"{command} is unknown")
        return
    per_key.absolute(label, {n: v[0] for n, v in values.items()}, at_most)
    accounted.absolute(label, {n: v[1] for n, v in values.items()}, None)


def _per_connection(server):
    # The first connections pay for what is shared.
    held = _connect(server, 20)
    before = server.settled_rss()
    held += _connect(server, CONNECTIONS)
    grown = server.settled_rss() - before
    for connection in held:
        connection.close()
    return grown / CONNECTIONS


def _connect(server, count):
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", server.port), 30)
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        if connection.recv(64) != b"+PONG\r\n":
            raise RuntimeError(f"{server.name}: no PONG")
        held.append(connection)
    return held


def _fragmentation(server, low, high):
    server.load("churn", MILLION, CHURN_ROUNDS, low, high, cpu=None)
    resident = server.settled_rss()
    return resident / int(server.info("used_memory"))
