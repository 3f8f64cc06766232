"""The lists beside this file: units in scope, tests that pass and must go on passing, tests that are not for Shoal."""

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))


def rows(path):
    """Lines of fields between tabs, without comments. A file that is not there has none."""
    if not os.path.exists(path):
        return
    with open(path, newline="\n") as text:
        for line in text.read().split("\n"):
            if line and not line.startswith("# "):
                yield line.split("\t")


def units(asked, is_slow, is_resp3):
    """The units to run, long ones first. `asked`: names, or beginnings of names that end with a slash."""
    known = [(name, kind) for name, kind, *marks in rows(os.path.join(HERE, "units.txt"))
             if asked or not is_resp3 or "resp3" in marks]
    if asked:
        found = [n for n, _ in known if any(n == a or a.endswith("/") and n.startswith(a) for a in asked)]
        return found + [a for a in asked if not a.endswith("/") and a not in found]
    order = {"slow": 0, "long": 1, "short": 2}
    return [n for n, kind in sorted(known, key=lambda k: order[k[1]]) if is_slow or kind != "slow"]


def directives(unit):
    """What the servers of a unit are told beside what the suite says: names and values."""
    marks = next((marks for name, _, *marks in rows(os.path.join(HERE, "units.txt")) if name == unit), [])
    return [mark.split("=", 1) for mark in marks if "=" in mark]


def ordered(unit):
    """Tests of a unit that are run with one worker, apart from the others."""
    return [name for of, name in rows(os.path.join(HERE, "ordered.txt")) if of == unit]


class Skips:
    """Tests that are not run, each with a reason. `*`: the whole unit."""

    def __init__(self, path):
        self.reasons = {(unit, name): reason for unit, name, reason in rows(path)}

    def reason(self, unit, name):
        return self.reasons.get((unit, name))

    def names(self, unit):
        return [name for of, name in self.reasons if of == unit and name != "*"]


class Passing:
    """Tests that pass. One that is listed must be run and pass."""

    def __init__(self, path):
        self.path = path
        self.known = {(unit, name) for unit, name in rows(path)}

    def missing(self, results):
        """What is listed for the units that ran, and did not pass."""
        ran = {r.unit for r in results}
        passed = {(r.unit, name) for r in results for name in r.passed}
        return sorted(entry for entry in self.known - passed if entry[0] in ran)

    def add(self, results):
        """Writes what passes and is not listed yet; never takes anything away. Returns how many."""
        passed = {(r.unit, name) for r in results for name in r.passed if not re.search(r"\bpid \d+", name)}
        added = passed - self.known
        self.known |= added
        with open(self.path, "w", newline="\n") as out:
            out.writelines(f"{unit}\t{name}\n" for unit, name in sorted(self.known))
        return len(added)
