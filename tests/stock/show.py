"""What Shoal promises, shown with stock clients on a cluster of real processes.

usage: show.py [words] [failover] [reshard] [tools] [power]     (all by default)
Needs redis-cli and redis-benchmark, PyPI's redis, and the word list of Debian's wamerican.
"""

import collections
import os
import subprocess
import sys
import threading
import time

import redis
from redis.cluster import ClusterNode, RedisCluster

from harness import Cluster, check, wait

WORDS = os.environ.get("SHOAL_WORDS", "/usr/share/dict/words")


def client(cluster, **options):
    nodes = [ClusterNode("127.0.0.1", n.port) for n in cluster.nodes if n.is_running()]
    return RedisCluster(startup_nodes=nodes, decode_responses=True, socket_timeout=10, **options)


def letters(word):
    return dict(collections.Counter(word))


def load_words(r, words):
    """Word as key, its letters and their counts as a hash; per first letter a sorted set of lengths."""
    for start in range(0, len(words), 1000):
        pipe = r.pipeline()
        for word in words[start:start + 1000]:
            pipe.hset(f"word:{word}", mapping=letters(word))
            pipe.zadd("{" + word[0] + "}:by-length", {word: len(word)})
        pipe.execute()


def verify_words(r, words):
    wrong = 0
    by_letter = collections.Counter(word[0] for word in words)
    for start in range(0, len(words), 1000):
        part = words[start:start + 1000]
        pipe = r.pipeline()
        for word in part:
            pipe.hgetall(f"word:{word}")
        for word, got in zip(part, pipe.execute()):
            wrong += {k: int(v) for k, v in got.items()} != letters(word)
    for letter, count in by_letter.items():
        wrong += r.zcard("{" + letter + "}:by-length") != count
    return wrong


def read_words():
    with open(WORDS, encoding="utf-8") as f:
        return sorted({line.strip() for line in f if line.strip()})


class Writer(threading.Thread):
    """Writes unique values to its keys, one at a time, and remembers what was acknowledged."""

    def __init__(self, cluster, name, wait_for=0):
        super().__init__(daemon=True)
        self.cluster, self.name_, self.wait_for = cluster, name, wait_for
        self.acknowledged, self.in_doubt = {}, {}
        self.errors, self.worst_s, self.longest_gap_s = [], 0.0, 0.0
        self.is_stopped = threading.Event()

    def run(self):
        r = client(self.cluster)
        serial, last_ok = 0, time.monotonic()
        while not self.is_stopped.is_set():
            serial += 1
            key, value = f"{self.name_}:{serial % 500}", str(serial)
            began = time.monotonic()
            try:
                r.set(key, value)
                if self.wait_for:
                    replicated = r.execute_command("WAIT", self.wait_for, 1000, target_nodes=r.get_node_from_key(key))
                    replicated = replicated if isinstance(replicated, int) else list(replicated.values())[0]
                    if replicated < self.wait_for:
                        self.in_doubt.setdefault(key, set()).add(value)
                        continue
                self.acknowledged[key] = value
                self.in_doubt.pop(key, None)
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - last_ok)
                last_ok = now
                self.worst_s = max(self.worst_s, now - began)
            except Exception as error:  # the point is to see every error that reaches a client
                self.errors.append(f"{type(error).__name__}: {error}")
                self.in_doubt.setdefault(key, set()).add(value)

    def stop(self):
        self.is_stopped.set()
        self.join(30)

    def lost(self, r):
        """Acknowledged values that are gone: neither the value nor a later one whose outcome is unknown is there."""
        lost = []
        for key, value in self.acknowledged.items():
            got = r.get(key)
            if got != value and got not in self.in_doubt.get(key, set()):
                lost.append((key, value, got))
        return lost


def show_words():
    words = read_words()
    with Cluster(6) as cluster:
        cluster.create(1)
        r = client(cluster)
        began = time.monotonic()
        load_words(r, words)
        loaded = time.monotonic()
        wrong = verify_words(r, words)
        print(f"words: {len(words)} words loaded in {loaded - began:.1f} s, verified in {time.monotonic() - loaded:.1f} s, {wrong} wrong")
        check(wrong == 0 and len(words) > 50_000, "every word is as it was written")


def show_failover():
    words = read_words()[:5000]
    with Cluster(6) as cluster:
        cluster.create(1)
        load_words(client(cluster), words)
        writers = [Writer(cluster, f"w{i}", wait_for=1) for i in range(3)]
        [w.start() for w in writers]
        wait("writes", lambda: all(len(w.acknowledged) > 100 for w in writers))
        victim = cluster.primaries()[0]
        port, victim_id = victim.port, victim.cli("CLUSTER", "MYID")
        [setattr(w, "longest_gap_s", 0.0) for w in writers]
        killed = time.monotonic()
        victim.kill()
        survivor = next(n for n in cluster.nodes if n.is_running())
        slot_of_victim = None

        def is_replaced():
            lines = survivor.cli("CLUSTER", "NODES").splitlines()
            mine = next(l for l in lines if l.startswith(victim_id))
            return "slave" in mine or ("fail" in mine and " connected " not in mine and len(mine.split()) == 8)

        wait("a new primary", is_replaced)
        replaced_s = time.monotonic() - killed
        before = [len(w.acknowledged) for w in writers]
        counts = [len(w.errors) for w in writers]
        time_to_settle = time.monotonic()
        wait("writes to go on", lambda: time.monotonic() - time_to_settle > 2)
        victim.start()
        wait("the killed node to come back as a replica", lambda: "role:slave" in victim.cli("INFO", "replication") and "master_link_status:up" in victim.cli("INFO", "replication"))
        [w.stop() for w in writers]
        r = client(cluster)
        lost = [l for w in writers for l in w.lost(r)]
        gap = max(w.longest_gap_s for w in writers)
        errors = sum(len(w.errors) for w in writers)
        print(f"failover: primary {port} killed with -9 at node timeout 1 s: replaced after {replaced_s:.2f} s, "
              f"longest time without an acknowledged write {gap:.2f} s, {errors} errors at clients, "
              f"{sum(len(w.acknowledged) for w in writers)} keys acknowledged and replicated, {len(lost)} lost")
        check(not lost, f"acknowledged and replicated writes are there: {lost[:3]}")
        check(verify_words(r, words) == 0, "the words are there")
        del before, counts, slot_of_victim


def show_reshard():
    words = read_words()
    with Cluster(6) as cluster:
        cluster.create(1)
        r = client(cluster)
        load_words(r, words)
        fresh = cluster.add_node()
        done = subprocess.run(["redis-cli", "--cluster", "add-node", f"127.0.0.1:{fresh.port}", f"127.0.0.1:{cluster.nodes[0].port}"], capture_output=True, text=True, timeout=60)
        check("New node added correctly" in done.stdout, f"add-node: {done.stdout}")
        fresh_id = fresh.cli("CLUSTER", "MYID")
        source = cluster.primaries()[0]
        wait("the source to know the node", lambda: fresh_id in source.cli("CLUSTER", "NODES"))
        line = next(l for l in source.cli("CLUSTER", "NODES").splitlines() if "myself" in l)
        first, last = map(int, line.split()[8].split("-"))
        last = first + (last - first + 1) // 3 - 1
        writers = [Writer(cluster, f"m{i}") for i in range(3)]
        [w.start() for w in writers]
        wait("writes", lambda: all(len(w.acknowledged) > 100 for w in writers))
        [setattr(w, "worst_s", 0.0) for w in writers]
        keys_before = int(source.cli("DBSIZE"))
        began = time.monotonic()
        check(source.cli("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", fresh_id) == "OK", "the move begins")
        wait("the move", lambda: f" {first}-{last}" in fresh.cli("CLUSTER", "NODES").split("myself")[1].split("\n")[0])
        took = time.monotonic() - began
        moved = int(fresh.cli("DBSIZE"))
        wait("the source to clean up", lambda: int(source.cli("DBSIZE")) <= keys_before - moved + 500)
        [w.stop() for w in writers]
        r = client(cluster)
        errors = [e for w in writers for e in w.errors]
        lost = [l for w in writers for l in w.lost(r)]
        doubled = doubled_keys(cluster)
        print(f"reshard: {last - first + 1} slots with {moved} keys moved in {took:.2f} s ({moved / took:.0f} keys/s) while written to: "
              f"worst latency of a write {max(w.worst_s for w in writers) * 1000:.1f} ms, {len(errors)} errors, {len(lost)} lost, {doubled} doubled")
        check(not errors, f"no error reaches a client: {errors[:3]}")
        check(not lost and doubled == 0, f"nothing lost or doubled: {lost[:3]}")
        check(verify_words(r, words) == 0, "the words are there")


def doubled_keys(cluster):
    """Keys that two primaries hold."""
    seen, doubled = set(), 0
    for node in cluster.primaries():
        for key in redis.Redis(port=node.port, decode_responses=True).scan_iter(count=1000):
            doubled += key in seen
            seen.add(key)
    return doubled


def show_tools():
    with Cluster(6) as cluster:
        out = cluster.create(1)
        check("[OK] All nodes agree about slots configuration" in out, "cluster create")
        first = cluster.nodes[0]
        for sub in ("check", "info"):
            done = subprocess.run(["redis-cli", "--cluster", sub, f"127.0.0.1:{first.port}"], capture_output=True, text=True, timeout=60)
            check(done.returncode == 0 and "[OK]" in done.stdout and "[ERR]" not in done.stdout, f"--cluster {sub}: {done.stdout}")
        for i in range(50):
            check(first.cli("-c", "SET", f"k{i}", i) == "OK", "redis-cli -c follows redirects")
            check(cluster.nodes[i % 6].cli("-c", "GET", f"k{i}") == str(i), "redis-cli -c reads back")
        done = subprocess.run(["redis-benchmark", "--cluster", "-p", str(first.port), "-n", "20000", "-c", "20", "-q", "-t", "set,get,incr,lpush,sadd,hset"], capture_output=True, text=True, timeout=120)
        check(done.returncode == 0 and done.stdout.count("requests per second") == 6, f"redis-benchmark --cluster: {done.stdout[-500:]}{done.stderr[-500:]}")
        # The key-by-key way of the stock tool: SETSLOT, GETKEYSINSLOT, MIGRATE.
        primaries = cluster.primaries()
        before = sum(int(n.cli("DBSIZE")) for n in primaries)
        ids = [n.cli("CLUSTER", "MYID") for n in primaries]
        done = subprocess.run(["redis-cli", "--cluster", "reshard", f"127.0.0.1:{first.port}", "--cluster-from", ids[0], "--cluster-to", ids[1], "--cluster-slots", "60", "--cluster-yes"], capture_output=True, text=True, timeout=120)
        check(done.returncode == 0 and "[ERR]" not in done.stdout, f"--cluster reshard: {done.stdout[-800:]}{done.stderr[-300:]}")
        wait("the cluster to agree", lambda: "[OK] All 16384 slots covered" in subprocess.run(["redis-cli", "--cluster", "check", f"127.0.0.1:{first.port}"], capture_output=True, text=True, timeout=60).stdout)
        after = sum(int(n.cli("DBSIZE")) for n in primaries)
        check(before == after, f"{before} keys before the reshard, {after} after")
        print("tools: redis-cli -c, --cluster create, check, info and reshard, and redis-benchmark --cluster work unchanged")


def show_power():
    with Cluster(6, ["--appendonly", "yes", "--appendfsync", "always"]) as cluster:
        cluster.create(1)
        writers = [Writer(cluster, f"p{i}") for i in range(4)]
        [w.start() for w in writers]
        wait("writes", lambda: all(len(w.acknowledged) >= 300 for w in writers))
        for node in cluster.nodes:
            node.process.kill()
        for node in cluster.nodes:
            node.process.wait()
        [w.stop() for w in writers]
        began = time.monotonic()
        for node in cluster.nodes:
            node.start()
        for node in cluster.nodes:
            wait(f"node {node.port}", lambda: node.cli("PING") == "PONG")
        cluster.wait_ok()
        back_s = time.monotonic() - began
        r = client(cluster)
        lost = [l for w in writers for l in w.lost(r)]
        print(f"power: six of six killed with -9 under load, back after {back_s:.2f} s: "
              f"{sum(len(w.acknowledged) for w in writers)} keys acknowledged, {len(lost)} lost")
        check(not lost, f"everything acknowledged is there: {lost[:3]}")


SHOWS = {"words": show_words, "failover": show_failover, "reshard": show_reshard, "tools": show_tools, "power": show_power}

if __name__ == "__main__":
    for name in sys.argv[1:] or SHOWS:
        SHOWS[name]()
    print("all shown")
