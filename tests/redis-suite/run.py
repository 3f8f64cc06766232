#!/usr/bin/env python3
"""Redis 7.0's own test suite, unmodified, against Shoal. See README.md in this folder.

usage: run.py [UNIT ...] [--server PATH] [--resp3 | --tls] [--slow] [--update] [--jobs N] [--set NAME VALUE] [--limit SECONDS] [--cache DIR]
"""

import argparse
import os
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import lists
import source
import units


def main():
    options = parsed()
    suite = source.fetched(options.cache)
    wanted = lists.units(options.units, options.slow, options.resp3)
    skips = lists.Skips(os.path.join(HERE, "skips.txt"))
    name = "passing-resp3.txt" if options.resp3 else "passing-tls.txt" if options.tls else "passing.txt"
    passing = lists.Passing(os.path.join(HERE, name))
    certificates = source.certificates(suite, options.cache) if options.tls else None

    # Ended from outside, it ends what it started as well.
    signal.signal(signal.SIGTERM, lambda *_: (units.end_all(), os._exit(1)))
    began = time.monotonic()

    def run(names, jobs, logs, directives=()):
        with tempfile.TemporaryDirectory(prefix="redis-suite-") as folder:
            runner = units.Runner(suite, options.server, folder, options.limit, options.resp3,
                                  [*options.set, *directives], skips, logs, certificates)
            return runner.run_all(names, jobs, lambda result: print(row(result), flush=True))

    results = run(wanted, options.jobs, options.logs)
    table(results, time.monotonic() - began, options.quiet)

    if options.update:
        added = passing.add(results)
        print(f"{added} newly passing tests were written into {os.path.basename(passing.path)}")
    missing = passing.missing(results)
    if missing and not options.update:
        # The suite waits for things by the clock: what a busy machine has spoilt passes when it runs alone.
        missing = again("UNSTABLE", "each alone", (), missing, passing, run)
    if missing and not options.update:
        # Some tests send on one connection and then on another without waiting: one thread takes that in order, two need not.
        missing = again("UNORDERED", "each alone with one worker", [("workers", "1")], missing, passing, run)
    for unit, name in missing:
        print(f"MISSING {unit}: {name}")
    if options.list:
        write_results(results, options.list)
    print(f"{len(missing)} tests of {os.path.basename(passing.path)} did not pass")
    sys.exit(1 if missing else 0)


def again(word, how, directives, missing, passing, run):
    """Runs the units of missing tests once more; returns what is still missing."""
    names = sorted({unit for unit, _ in missing})
    print(f"once more, {how}: {', '.join(names)}")
    still = set(passing.missing(run(names, 1, None, directives)))
    for unit, name in missing:
        if (unit, name) not in still:
            print(f"{word} {unit}: {name}")
    return [entry for entry in missing if entry in still]


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("units", nargs="*", help="units, such as unit/type/incr; none: all of units.txt")
    parser.add_argument("--server", default=built(), help="the binary to test; default: the release build")
    parser.add_argument("--resp3", action="store_true", help="the suite's client asks for RESP3")
    parser.add_argument("--tls", action="store_true", help="the suite speaks TLS with servers, and these with each other")
    parser.add_argument("--slow", action="store_true", help="units with long waits as well")
    parser.add_argument("--update", action="store_true", help="write newly passing tests into the list")
    parser.add_argument("--jobs", type=int, default=2, help="units that run at one time")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a directive for every server")
    parser.add_argument("--limit", type=int, default=300, help="seconds for a unit")
    default = os.environ.get("REDIS_SUITE_CACHE", os.path.join(target(), "redis-suite"))
    parser.add_argument("--cache", default=default, help="where the suite's source is kept")
    parser.add_argument("--logs", help="folder for each unit's output and the logs of servers in it")
    parser.add_argument("--list", help="write every test's result there")
    parser.add_argument("--quiet", action="store_true", help="do not name what failed")
    options = parser.parse_args()
    options.server = os.path.abspath(options.server)
    if not os.access(options.server, os.X_OK):
        parser.error(f"there is no server at {options.server}: cargo build --release -p node")
    return options


def target():
    return os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "..", "target"))


def built():
    return os.path.join(target(), "release", "shoal-server")


def row(result):
    end = f"  {result.end}" if result.end else ""
    return (f"{result.unit:28} {len(result.passed):5} passed {len(result.failed):4} failed "
            f"{len(result.skipped):4} skipped {result.seconds:6.1f} s{end}")


def table(results, seconds, is_quiet):
    if not is_quiet:
        for result in results:
            for name, why in result.failed:
                print(f"FAILED {result.unit}: {name}\n       {why}")
    count = lambda field: sum(len(getattr(r, field)) for r in results)
    cut = [r.unit for r in results if r.end]
    print(f"{len(results)} units: {count('passed')} passed, {count('failed')} failed, "
          f"{count('skipped')} skipped, in {seconds:.0f} s")
    if cut:
        print(f"ended before their end: {', '.join(cut)}")


def write_results(results, path):
    with open(path, "w") as out:
        for result in results:
            for kind in ("passed", "failed", "skipped"):
                for entry in getattr(result, kind):
                    name = entry if isinstance(entry, str) else entry[0]
                    out.write(f"{kind}\t{result.unit}\t{name}\n")


if __name__ == "__main__":
    main()
