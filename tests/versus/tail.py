"""Latency at a fixed rate, measured from the moment a command was meant to be sent, alone and beside clients that ask
for something big. Commands that were due while the host took a CPU away count in a table of their own only."""

import time

import servers as s
from table import Table, medians
from throughput import KEYS, run_benchmark

ALONE_AT_MOST, DISTURBED_AT_MOST = 0.80, 0.20
CONNECTIONS = 50
# Short turns, several in a round: the machine is slow for seconds at a time, and a long turn would be all in such a time.
SECONDS, TURNS = 2, 4
MIX = ["GET key:{r:1000000}", "SET key:{r:1000000} {x:64}"]
BIG = 1_000_000
# Big collections that are deleted while the load runs: how each is made.
KINDS = {"set": "SADD big:set:{n} member:{i}", "hash": "HSET big:hash:{n} field:{i:10} value:{i:10}",
         "zset": "ZADD big:zset:{n} {p:1000000} member:{i}"}
DELETES = 2
SCRIPT_MS = 100


def script(server):
    """A loop of about 100 ms as a command of the load generator, or why there is none."""
    if not server.knows("EVAL", "return 1", 0):
        return None, "EVAL is unknown"
    text_of = lambda loops: f"local n=0 for i=1,{loops} do n=n+i end return n"
    loops = 1_000_000
    for _ in range(3):  # by measuring what a million turns take, twice corrected
        begun = time.monotonic()
        server.call("EVAL", text_of(loops), 0)
        loops = int(loops * SCRIPT_MS / 1000 / max(1e-4, time.monotonic() - begun))
    # Tabs: spaces separate the words of a template.
    return text_of(loops).replace(" ", "\t"), None


def scenarios(server):
    """Label to the disturbers' arguments, or to the reason why this server cannot be disturbed so."""
    keys = ["--disturb", 100, "KEYS *"]
    body, why = script(server)
    eval_ = ["--disturb", 300, f"EVAL {body} 0"] if body else None
    made = {"alone": [], "beside KEYS *": keys, "beside a 100 ms script": eval_ or why}
    all_deletes = []
    for kind in KINDS:
        deletes = ["--disturb", 800, " | ".join(f"DEL big:{kind}:{n}" for n in range(DELETES))]
        made[f"beside DEL of a million ({kind})"] = deletes
        all_deletes += deletes
    made["beside all of them"] = keys + (eval_ or []) + all_deletes
    return made


def refill(server, label):
    """The collections that this scenario deletes."""
    for kind, template in KINDS.items():
        if kind in label or "all of them" in label:
            for n in range(DELETES):
                server.fill(BIG, template.replace("{n}", str(n)))


def saturation(started):
    """Operations a second of the slowest peer, one command at a time per connection."""
    rates = {}
    for server in s.in_turn(started, 0):
        rates[server.name] = run_benchmark(server, 150_000, 1, ["SET", "key:__rand_int__", "x" * 64])["rate"] * 1000
    peers = [r for n, r in rates.items() if n != s.OURS] or list(rates.values())
    return min(peers)


@s.cleared()
def run(found, rounds, only):
    started = s.start_all(found)
    names = [x.name for x in started]
    try:
        plans = {}
        for server in s.in_turn(started, 0):
            server.fill(KEYS, "SET key:{i} {x:64}")
            plans[server.name] = scenarios(server)
        labels = [label for label in plans[s.OURS] if only.lower() in label.lower()]
        if not labels:
            return []
        rate = int(saturation(started) / 2)
        results = {label: {n: [] for n in names} for label in labels}
        skipped = {}
        for label in [label for _ in range(rounds) for label in labels]:
            for turn in range(TURNS):
                for server in s.in_turn(started, turn):
                    plan = plans[server.name][label]
                    if isinstance(plan, str):
                        skipped.setdefault(label, f"{server.name}: {plan}")
                        continue
                    refill(server, label)
                    results[label][server.name].append(_measure(server, rate, plan))
        return _tables(names, labels, results, skipped, rate)
    finally:
        for server in started:
            server.stop()


def _measure(server, rate, disturbers):
    got = server.load("rate", rate, SECONDS, CONNECTIONS, *MIX, "--watch", s.SERVER_CPU, *disturbers)
    if got["errors"] or any(d["errors"] for d in got["disturbers"]):
        raise RuntimeError(f"{server.name}: {got}")
    return got


def _tables(names, labels, results, skipped, rate):
    tables = []
    for field, title in [("p999_us", "p99.9"), ("p99_us", "p99"), ("p50_us", "p50"), ("max_us", "longest"),
                         ("all_p999_us", "p99.9 with what the host took away")]:
        table = Table(f"Latency {title} at {rate} operations a second", names, "us, open loop")
        for label in labels:
            values = {n: [r[field] for r in v] for n, v in results[label].items()}
            if not values[s.OURS]:
                table.skipped(label, skipped[label])
                continue
            limit = ALONE_AT_MOST if label == "alone" else DISTURBED_AT_MOST
            at_most = limit if field == "p999_us" else None
            # Of medians: the best of three noisy peers in each round would be better than any of them is.
            table.ratio(label, medians(values), at_most, digits=0)
        tables.append(table)
    for label, why in skipped.items():
        tables[0].note(f"{label}: {why}")
    robbed = medians({n: [r["robbed"] for v in results.values() for r in v[n]] for n in names})
    tables[0].note("due while a CPU was taken away, not counted: " + ", ".join(f"{n} {x:.1%}" for n, x in robbed.items()))
    if not any(results[labels[-1]].values()):
        return tables
    done = {n: [d["done"] for d in v[-1]["disturbers"]] for n, v in results[labels[-1]].items() if v}
    tables[0].note(f"big commands finished in '{labels[-1]}': {done}")
    return tables
