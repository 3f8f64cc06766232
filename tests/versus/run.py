#!/usr/bin/env python3
"""Shoal beside its peers: cost, tails, memory, scaling. See README.md in this folder.

usage: run.py [throughput|tail|memory|scaling|all] [--rounds N] [--only SUBSTRING] [--json FILE] [--strict]
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import memory
import scaling
import servers
import table
import tail
import throughput

PARTS = {"throughput": throughput.run, "tail": tail.run, "memory": memory.run, "scaling": scaling.run}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--rounds", type=int, default=3, help="times each cell is measured, in alternating order")
    parser.add_argument("--only", default="", help="rows whose label contains this")
    parser.add_argument("--json", help="write the tables there as well")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if a target was missed")
    options = parser.parse_args()

    found = servers.found()
    versions(found)
    tables = []
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            for made in part(found, max(1, options.rounds), options.only):
                made.show()
                tables.append(made)
    if not tables:
        raise SystemExit(f"nothing is called {options.only}")
    missed = [f"{t.title}: {label}" for t in tables for label in t.missed()]
    print(f"{len(missed)} missed" + "".join(f"\n  {m}" for m in missed))
    if options.json:
        table.write_json(tables, options.json)
    sys.exit(1 if missed and options.strict else 0)


def versions(found):
    """Says what is measured, by which tool, on what."""
    for name, path in found.items():
        server = servers.Server(name, path)
        print(f"{name}: {server.version()} ({server.info('mem_allocator') or 'allocator unknown'})")
        server.stop()
    print(f"load: {os.path.basename(servers.benchmark())}; CPUs: {os.cpu_count()}; Linux {os.uname().release}")


if __name__ == "__main__":
    main()
