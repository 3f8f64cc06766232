"""What a second worker costs and gives, what ten million keys cost, and a slot that everybody wants."""

import os

import servers as s
from table import Table, medians
from throughput import run_benchmark

WORKER_COST_AT_MOST, KEYS_COST_AT_MOST = 1.15, 1.30
FEW, MANY = 100_000, 10_000_000
BOTH_CPUS = "0,1"
# Label, operations, pipeline, command.
SPREAD = [
    ("GET P16", 1_500_000, 16, ["GET", "key:__rand_int__"]),
    ("SET P16", 1_500_000, 16, ["SET", "key:__rand_int__", "x" * 64]),
    ("GET P1", 150_000, 1, ["GET", "key:__rand_int__"]),
]
HOT = [
    ("hot key INCR P16", 1_000_000, 16, ["INCR", "hot"]),
    ("hot key GET P16", 1_000_000, 16, ["GET", "hot"]),
]


def run(found, rounds, only):
    tables = []
    for make in (_workers, _hot_slot, _many_keys):
        tables += make(found, rounds, only.lower())
    return tables


def _wanted(cases, prefix, only):
    return [c for c in cases if only in f"{prefix} {c[0]}".lower()]


def _measure_workers(found, counts, cases, rounds, keys):
    """Label to worker count to the runs, all counts side by side; server and load share both CPUs."""
    started = []
    for count in counts:
        server = s.Server(s.OURS, found[s.OURS], ["--workers", count], BOTH_CPUS)
        server.name = count
        server.fill(keys, "SET key:{i} {x:64}")
        server.hold()
        started.append(server)
    results = {c[0]: {n: [] for n in counts} for c in cases}
    try:
        for round_number in range(rounds):
            for label, operations, pipeline, command in cases:
                for server in s.in_turn(started, round_number):
                    got = run_benchmark(server, operations, pipeline, command, cpu=BOTH_CPUS)
                    results[label][server.name].append(got)
    finally:
        for server in started:
            server.stop()
    return results


def _pair(results, label, field, count):
    """Medians of one worker and of `count`, and the median of the rounds' ratios."""
    of = lambda n: [r[field] for r in results[label][n]]
    one, more = of(1), of(count)
    ratio = sorted(b / a for a, b in zip(one, more))[len(one) // 2]
    return {"1": medians({0: one})[0], str(count): medians({0: more})[0]}, ratio


def _workers(found, rounds, only):
    cases = _wanted(SPREAD, "two workers", only)
    if not cases or os.cpu_count() < 2:
        return []
    results = _measure_workers(found, [1, 2], cases, rounds, 1_000_000)
    cost = Table("Two workers: cost", ["1", "2"], "server CPU-seconds per million operations; ratio to one worker")
    time = Table("Two workers: time", ["1", "2"], "us per operation, server and load on both CPUs; ratio to one worker")
    for label, *_ in cases:
        values, ratio = _pair(results, label, "cpu", 2)
        cost.ratio(label, values, WORKER_COST_AT_MOST, ratio)
        values, ratio = _pair(results, label, "rate", 2)
        time.ratio(label, {n: 1000 / v for n, v in values.items()}, 1.0, 1 / ratio)
    return [cost, time]


def _hot_slot(found, rounds, only):
    cases = _wanted(HOT, "", only)
    if not cases:
        return []
    results = _measure_workers(found, [1, 2, 4], cases, rounds, 1)
    table = Table("One hot key", ["1", "2", "4"], "us per operation by workers; ratio to one worker")
    for label, *_ in cases:
        for count in (2, 4):
            values, ratio = _pair(results, label, "rate", count)
            table.ratio(f"{label}, {count} workers", {n: 1000 / v for n, v in values.items()}, 1.0, 1 / ratio)
    return [table]


def _many_keys(found, rounds, only):
    cases = _wanted(SPREAD[:2], "ten million keys", only)
    if not cases:
        return []
    names = list(found)
    costs = {label: {n: {} for n in names} for label, *_ in cases}
    for name, path in found.items():
        server = s.Server(name, path)
        try:
            for keys in (FEW, MANY):
                server.fill(keys, "SET key:{i} value:{i:10}")
                for label, operations, pipeline, command in cases:
                    command = [w if w[0] != "x" else w[:16] for w in command]
                    runs = [run_benchmark(server, operations, pipeline, command, keys=keys)["cpu"] for _ in range(rounds)]
                    costs[label][name][keys] = medians({0: runs})[0]
        finally:
            server.stop()
    table = Table("Ten million keys", names, "cost per operation against that with a hundred thousand keys")
    for label, *_ in cases:
        table.absolute(label, {n: c[MANY] / c[FEW] for n, c in costs[label].items()}, KEYS_COST_AT_MOST, digits=2)
        for keys in (FEW, MANY):
            table.ratio(f"  CPU-s per million, {keys} keys", {n: c[keys] for n, c in costs[label].items()}, None)
    return [table]
