"""Cost per operation: CPU time of the server's process per million operations, one CPU for the server, one for the load."""

import re
import subprocess

import servers as s
from table import Table, medians, per_round_ratio

KEYS = 1_000_000
# Label, target, operations, pipeline, command. Custom commands, so that each tool sends the same bytes.
X64 = "x" * 64
RANDOM = "key:__rand_int__"
CASES = [
    ("GET P1", 0.93, 120_000, 1, ["GET", RANDOM]),
    ("SET P1", 0.93, 120_000, 1, ["SET", RANDOM, X64]),
    ("GET P16", 0.75, 1_200_000, 16, ["GET", RANDOM]),
    ("SET P16", 0.75, 1_200_000, 16, ["SET", RANDOM, X64]),
    ("GET P64", 0.50, 2_400_000, 64, ["GET", RANDOM]),
    ("SET P64", 0.50, 2_400_000, 64, ["SET", RANDOM, X64]),
    ("HSET P16", 0.75, 800_000, 16, ["HSET", "versus:hash", "element:__rand_int__", "abc"]),
    ("LPUSH P16", 0.75, 800_000, 16, ["LPUSH", "versus:pushed", "abc"]),
    ("SADD P16", 0.75, 800_000, 16, ["SADD", "versus:set", "element:__rand_int__"]),
    ("INCR P16", 0.75, 800_000, 16, ["INCR", "counter:__rand_int__"]),
    ("ZADD P16", 0.55, 500_000, 16, ["ZADD", "versus:zset", "__rand_int__", "member:__rand_int__"]),
    ("ZSCORE P16", 0.75, 800_000, 16, ["ZSCORE", "versus:zset", "member:__rand_int__"]),
    ("ZRANK P16", 0.50, 600_000, 16, ["ZRANK", "versus:zset", "member:__rand_int__"]),
    ("LRANGE 100 P1", 0.80, 50_000, 1, ["LRANGE", "versus:list", "0", "99"]),
    ("MSET 10 P1", 0.80, 50_000, 1, ["MSET", *[w for _ in range(10) for w in (RANDOM, X64)]]),
    ("MGET 10 P1", 0.80, 50_000, 1, ["MGET", *[RANDOM] * 10]),
]
CONNECTIONS = 50
GROWING = ["versus:hash", "versus:pushed", "versus:set"]


def preload(server, labels):
    """A million keys in order: random ones leave a third of them missing and make GET too cheap."""
    server.fill(KEYS, "SET key:{i} {x:64}")
    if any(label.startswith("Z") for label in labels):
        server.fill(KEYS, "ZADD versus:zset {p:1000000} member:{i}")
    server.fill(10_000, "RPUSH versus:list item:{i:11}")


def run_benchmark(server, operations, pipeline, command, cpu=s.LOAD_CPU, keys=KEYS):
    """One run of the load; CPU ns and switches per operation, throughput and percentiles."""
    pinned = ["taskset", "-c", cpu] if cpu else []
    args = [*pinned, s.benchmark(), "-p", server.port, "-n", operations, "-c", CONNECTIONS, "-P", pipeline,
            "-r", keys, *command]
    cpu_ns, switches = server.cpu_ns(), server.switches()
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True)
    cpu_ns, switches = server.cpu_ns() - cpu_ns, server.switches() - switches
    rate = re.search(r"throughput summary: ([\d.]+)", done.stdout)
    if not rate:
        raise RuntimeError(f"{server.name}: {' '.join(command[:2])}: {(done.stdout + done.stderr)[-400:]}")
    summary = re.search(r"latency summary.*\n\s*avg.*\n\s*([\d. ]+)", done.stdout).group(1).split()
    # Of the distribution the first step at or above the quantile.
    steps = re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds", done.stdout)
    p999 = next((float(ms) for percent, ms in steps if float(percent) >= 99.9), None)
    return {"cpu": cpu_ns / operations / 1e3, "switches": switches / operations, "rate": float(rate.group(1)) / 1e3,
            "p50": float(summary[2]), "p99": float(summary[4]), "p999": p999}


def run(found, rounds, only):
    cases = [c for c in CASES if only.lower() in c[0].lower() + " "]
    if not cases:
        return []
    started = s.start_all(found)
    names = [x.name for x in started]
    results = {c[0]: {n: [] for n in names} for c in cases}
    steal = s.steal_share()
    try:
        for server in s.in_turn(started, 0):
            preload(server, [c[0] for c in cases])
        for round_number in range(rounds):
            for label, _, operations, pipeline, command in cases:
                for server in s.in_turn(started, round_number):
                    if command[1] in GROWING:
                        server.call("UNLINK", command[1])
                    results[label][server.name].append(run_benchmark(server, operations, pipeline, command))
        return _tables(cases, names, results, rounds, s.steal_share(steal))
    finally:
        for server in started:
            server.stop()


def _tables(cases, names, results, rounds, stolen):
    pick = lambda label, field: {n: [r[field] for r in v] for n, v in results[label].items()}
    cost = Table("Cost", names, f"server CPU-seconds per million operations, median of {rounds} rounds")
    if stolen > 0.01:
        cost.note(f"the machine was robbed of {stolen:.1%} of its time: repeat this")
    for label, at_most, *_ in cases:
        cpu = pick(label, "cpu")
        cost.ratio(label, medians(cpu), at_most, per_round_ratio(cpu))
    others = []
    for field, title, unit, digits in [
        ("rate", "Throughput, closed loop", "thousand operations a second", 0),
        ("switches", "Context switches", "per operation", 4),
        ("p50", "Latency p50, closed loop", "ms", 3),
        ("p99", "Latency p99, closed loop", "ms", 3),
        ("p999", "Latency p99.9, closed loop", "ms", 3),
    ]:
        table = Table(title, names, unit, max if field == "rate" else min)
        for label, *_ in cases:
            table.ratio(label, medians(pick(label, field)), None, digits=digits)
        others.append(table)
    return [cost, *others]
