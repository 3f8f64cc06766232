"""Tables of ours beside the peers', with the target and whether it was met."""

import json
import statistics

from servers import OURS


class Table:
    """One part of the measure. Lower is better unless `best` is max."""

    def __init__(self, title, names, unit, best=min):
        self.title, self.names, self.unit, self.best = title, names, unit, best
        self.rows, self.notes = [], []

    def ratio(self, label, values, at_most, ratio=None, digits=2):
        """Ours against the best peer. `ratio` where it was taken round by round."""
        peers = [v for n, v in values.items() if n != OURS and v]
        if ratio is None and peers and values.get(OURS) is not None:
            ratio = values[OURS] / self.best(peers)
        self._row(label, values, ratio, ratio, at_most, digits)

    def absolute(self, label, values, at_most, digits=1):
        """Ours against a number."""
        peers = [v for n, v in values.items() if n != OURS and v]
        ratio = values[OURS] / self.best(peers) if peers else None
        self._row(label, values, ratio, values[OURS], at_most, digits)

    def skipped(self, label, why):
        self.rows.append({"label": label, "skipped": why})

    def note(self, text):
        self.notes.append(text)

    def _row(self, label, values, ratio, judged, at_most, digits):
        verdict = "" if at_most is None else "?" if judged is None else "ok" if judged <= at_most else "MISSED"
        self.rows.append({"label": label, "values": values, "ratio": ratio, "at_most": at_most, "verdict": verdict,
                          "digits": digits})

    def show(self):
        print(f"\n{self.title} ({self.unit})")
        width = max([len(r["label"]) for r in self.rows] + [20])
        heads = "".join(f"{n:>10}" for n in self.names)
        print(f"{'':<{width}}{heads}{'best peer':>11}{'at most':>9}")
        for row in self.rows:
            print(f"{row['label']:<{width}}{_cells(row, self.names)}")
        for note in self.notes:
            print(f"  {note}")
        print(flush=True)

    def missed(self):
        return [r["label"] for r in self.rows if r.get("verdict") == "MISSED"]


def _cells(row, names):
    if "skipped" in row:
        return f"  skipped: {row['skipped']}"
    values = [row["values"].get(n) for n in names]
    text = "".join(f"{'-':>10}" if v is None else f"{v:>10.{row['digits']}f}" for v in values)
    text += f"{'-':>11}" if row["ratio"] is None else f"{row['ratio']:>10.2f}x"
    limit = row["at_most"]
    return text + (f"{'':>9}" if limit is None else f"{limit:>9g}") + f"  {row['verdict']}"


def per_round_ratio(rounds):
    """Median over the rounds of ours against the best peer of the same round. `rounds`: name to values."""
    peers = [v for n, v in rounds.items() if n != OURS]
    if OURS not in rounds or not peers:
        return None
    ratios = [ours / min(p[i] for p in peers) for i, ours in enumerate(rounds[OURS])]
    return statistics.median(ratios)


def medians(rounds):
    return {n: statistics.median(v) for n, v in rounds.items() if v}


def write_json(tables, path):
    with open(path, "w") as f:
        json.dump([{"title": t.title, "unit": t.unit, "rows": t.rows, "notes": t.notes} for t in tables], f, indent=1)
