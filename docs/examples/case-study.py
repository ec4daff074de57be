#!/usr/bin/env python3
"""Explores case-study.yaml in both editions, prints what came of it by phase, and draws the figure of docs/case-study.md.

    docs/examples/case-study.py FOLDER

FOLDER is made: FOLDER/literal and FOLDER/strict get result.json and the journal runs.jsonl, FOLDER/case-study.svg the
figure. KEXEC_SIM names the program (default: kexec-sim on the path). Equal programs give equal figures, byte by byte.
"""
import collections
import html
import json
import os
import pathlib
import subprocess
import sys

SCENARIO = pathlib.Path(__file__).with_name("case-study.yaml")
EDITIONS = {"literal": "as posted", "strict": "repaired"}
# The worst finding of a run says what it is counted as.
SEVERITIES = {
    "corruption": ("lost or damaged, and nobody says so", "#8c2d4f"),
    "leak": ("memory leaked", "#e39a2d"),
    "stuck": ("stuck: not rolled back, not updated", "#3f72b5"),
}
# Phases of the journal, with their generation, as the figure has them.
PHASES = {
    ("boot", 0): "boot (old)",
    ("normal", 0): "normal",
    ("prepare", 0): "PREPARE",
    ("prepared", 0): "prepared",
    ("freeze", 0): "freeze",
    ("frozen", 0): "freeze",
    ("shutdown", 0): "jump",
    ("jump", 0): "jump",
    ("boot", 1): "boot (new)",
    ("updated", 1): "updated",
    ("finish", 1): "FINISH",
    ("normal", 1): "FINISH",
}
ORDER = ("boot (old)", "normal", "PREPARE", "prepared", "freeze", "jump", "boot (new)", "updated", "FINISH")


def explore(defects, folder):
    """The outcomes of all plans, from the journal."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [os.environ.get("KEXEC_SIM", "kexec-sim"), "explore", "-q", "--set", f"defects={defects}", "--shrink", "0",
         "--out", folder, "--json", folder / "result.json", SCENARIO], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):  # 1: it has found something
        sys.exit(f"case-study.py: explore ended with exit code {done.returncode}")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "runs.jsonl").open(encoding="utf-8")]
    runs = [line for line in lines if "plan" in line]
    if result["complete"] is not True or result["runs"] != len(runs):
        sys.exit("case-study.py: the exploration is not complete")
    # The result counts by phase, too: what is drawn are its numbers, taken apart by severity and action.
    counted = collections.Counter((run["phase"], run["fired_in"]) for run in runs if run.get("violations"))
    if any(counted[phase["phase"], phase["generation"]] != phase["violating"] for phase in result["by_phase"]):
        sys.exit("case-study.py: the journal and the result do not agree")
    return runs


def phase_of(run):
    return PHASES[run["phase"], run["fired_in"]]


def action_of(run):
    return run["plan"][0].rsplit("=", 1)[1].split("(")[0]


class Tally:
    """The runs of one phase."""

    def __init__(self):
        self.plans = self.violating = 0
        self.plans_by_action, self.violating_by_action = collections.Counter(), collections.Counter()
        self.by_severity = collections.Counter()
        self.different = set()

    def add(self, run):
        violations = run.get("violations", [])
        self.plans += 1
        self.plans_by_action[action_of(run)] += 1
        if not violations:
            return
        self.violating += 1
        self.violating_by_action[action_of(run)] += 1
        found = {violation["severity"] for violation in violations}
        self.by_severity[next(severity for severity in SEVERITIES if severity in found)] += 1
        self.different.add(frozenset((violation["id"], violation["resource"]) for violation in violations))

    def share(self, action):
        return f"{self.violating_by_action[action]}/{self.plans_by_action[action]}" if self.plans_by_action[action] else "–"


def tallied(runs):
    tallies = {phase: Tally() for phase in ORDER}
    for run in runs:
        tallies[phase_of(run)].add(run)
    return tallies


def print_table(title, tallies):
    print(f"{title:<12} {'plans':>6} {'violating':>10} {'different':>10} {'fail':>8} {'kill-agent':>11}")
    for phase, tally in tallies.items():
        print(f"  {phase:<10} {tally.plans:>6} {tally.violating:>10} {len(tally.different):>10} "
              f"{tally.share('fail'):>8} {tally.share('kill-agent'):>11}")
    different = set().union(*(tally.different for tally in tallies.values()))
    print(f"  {'all':<10} {sum(tally.plans for tally in tallies.values()):>6} "
          f"{sum(tally.violating for tally in tallies.values()):>10} {len(different):>10}\n")


# ---- the figure ----

WIDTH, LEFT, RIGHT = 960, 70, 940
COLUMN = (RIGHT - LEFT) / len(ORDER)
DARK, FAINT = "#222222", "#6b7280"


class Svg:
    def __init__(self, height, title, description):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'font-family="sans-serif" font-size="13" role="img" aria-labelledby="t d">',
            f'<title id="t">{html.escape(title)}</title>', f'<desc id="d">{html.escape(description)}</desc>',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']

    def text(self, x, y, text, anchor="start", color=DARK, more=""):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{more}>{html.escape(text)}</text>')

    def box(self, x, y, width, height, color, more=""):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"{more}/>')

    def line(self, x1, y1, x2, y2, color, more=""):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{more}/>')

    def write(self, path):
        path.write_text("\n".join(self.parts + ["</svg>"]) + "\n", encoding="utf-8")


def center(column):
    return LEFT + (column + 0.5) * COLUMN


def axes(svg, top, bottom, heading, unit, ticks, top_value):
    """A panel: heading, the vertical axis with its ticks and grid, the base line."""
    svg.text(LEFT, top - 30, heading, more=' font-size="15" font-weight="bold"')
    for tick in ticks:
        y = bottom - (bottom - top) * tick / top_value
        if tick:
            svg.line(LEFT, y, RIGHT, y, "#e5e7eb")
        svg.text(LEFT - 8, y + 4, f"{tick}{unit}", "end", FAINT)
    svg.line(LEFT, bottom, RIGHT, bottom, FAINT)


def phase_names(svg, y):
    for column, phase in enumerate(ORDER):
        svg.text(center(column), y, phase, "middle", more=' font-weight="bold"')


def panel_counts(svg, top, height, heading, tallies, ticks):
    """Bars of violating plans, stacked by severity; the highest tick is at the top."""
    bottom, width, top_value = top + height, 46, ticks[-1]
    axes(svg, top, bottom, heading, "", ticks, top_value)
    middle = (top + bottom) / 2
    svg.text(24, middle, "plans", "middle", FAINT, f' transform="rotate(-90 24 {middle:.1f})"')
    for column, tally in enumerate(tallies.values()):
        x, y = center(column), float(bottom)
        for severity, (_, color) in SEVERITIES.items():
            tall = height * tally.by_severity[severity] / top_value
            y -= tall
            if tall:
                svg.box(x - width / 2, y, width, tall, color)
        svg.text(x, y - 6, str(tally.violating), "middle", DARK if tally.violating else FAINT,
                 ' font-weight="bold"' if tally.violating else "")
        svg.text(x, bottom + 36, f"of {tally.plans}", "middle", FAINT)
    phase_names(svg, bottom + 18)


def panel_shares(svg, top, height, heading, editions):
    bottom, width = top + height, 30
    axes(svg, top, bottom, heading, " %", (0, 50, 100), 100)
    looks = ("#4b5563", ""), ("#ffffff", ' stroke="#4b5563" stroke-width="1.5"')
    phase_names(svg, bottom + 18)
    for side, (label, (color, more)) in enumerate(zip(EDITIONS.values(), looks)):
        svg.box(RIGHT - 205 + 115 * side, top - 41, 12, 12, color, more)
        svg.text(RIGHT - 186 + 115 * side, top - 30, label)
    for column, phase in enumerate(ORDER):
        for side, (tallies, (color, more)) in enumerate(zip(editions, looks)):
            tally, x = tallies[phase], center(column) + (side - 0.5) * (width + 8)
            if not tally.plans_by_action["fail"]:
                if side:
                    svg.text(center(column), bottom - 6, "none fails", "middle", FAINT)
                continue
            tall = height * tally.violating_by_action["fail"] / tally.plans_by_action["fail"]
            if tall:
                svg.box(x - width / 2, bottom - tall, width, tall, color, more)
            svg.text(x, bottom - tall - 6, tally.share("fail"), "middle", DARK if tall else FAINT, ' font-size="12"')


def draw(path, editions):
    literal, strict = editions
    total = [sum(tally.violating for tally in tallies.values()) for tallies in editions]
    plans = [sum(tally.plans for tally in tallies.values()) for tallies in editions]
    height = 700
    svg = Svg(height, "Violating plans by phase of the update",
              f"Bars by phase of a live update, from the boot of the old kernel to FINISH. As posted, {total[0]} of "
              f"{plans[0]} single operational faults violate a rule, most of them in PREPARE and while prepared; repaired, "
              f"{total[1]} of {plans[1]}. Of the plans in which an operation fails, as posted all those in freeze violate.")
    svg.text(20, 34, "Which single faults does a live update not survive?", more=' font-size="18" font-weight="bold"')
    x = 20
    for label, color in SEVERITIES.values():
        svg.box(x, 52, 13, 13, color)
        svg.text(x + 20, 63, label)
        x += 50 + 6.3 * len(label)
    # Both panels have the same scale: so many plans a pixel.
    most = [max(tally.violating for tally in tallies.values()) for tallies in editions]
    step = next(step for step in (5, 10, 25, 50, 100, 250, 500, 1000) if max(most) <= 4 * step)
    ticks = [range(0, -(-max(count, 1) // step) * step + 1, step) for count in most]
    heights = [200 * one[-1] / ticks[0][-1] for one in ticks]
    top = 126
    panel_counts(svg, top, heights[0], f"{EDITIONS['literal'].capitalize()}: {total[0]} of {plans[0]} plans violate a rule",
                 literal, ticks[0])
    top += heights[0] + 96
    panel_counts(svg, top, heights[1], f"{EDITIONS['strict'].capitalize()}: {total[1]} of {plans[1]}", strict, ticks[1])
    top += heights[1] + 106
    panel_shares(svg, top, 100, "Plans in which an operation fails (action “fail”): how many of them violate a rule?",
                 editions)
    svg.write(path)


def main():
    sys.stdout.reconfigure(encoding="utf-8")
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: docs/examples/case-study.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    if folder.exists():
        sys.exit(f"case-study.py: {folder} is there already: name a new folder")
    editions = [tallied(explore(defects, folder / defects)) for defects in EDITIONS]
    for title, tallies in zip(EDITIONS.values(), editions):
        print_table(title, tallies)
    draw(folder / "case-study.svg", editions)


if __name__ == "__main__":
    main()
