"""The SVG: bars of the ratios, by row, on a logarithmic axis; a panel for each backing; for light and dark pages."""

import math
from xml.sax.saxutils import escape, quoteattr

from . import report

# Of bars, gaps, and text, in pixels.
BAR, BAR_GAP, ROW_GAP = 7, 1, 12
TITLES, PANEL, MARGIN, TOP = 300, 400, 40, 118
# Two that are not kmsfs may be near one another: they are the background of the picture.
COLOURS = {  # light, dark
    "kmsfs": ("#1f5fbf", "#6ea8ff"),
    "kmsfs-sm4": ("#c2570c", "#ff9f5a"),
    "kmsfs-fast": ("#15803d", "#5fd38a"),
    "gocryptfs": ("#111111", "#eeeeee"),
    "securefs": ("#8b5fbf", "#b79be0"),
    "passthrough": ("#8a8f98", "#9aa0aa"),
    "raw": ("#c9ccd1", "#4d525b"),
}


def to_svg(whole):
    backings = whole["backings"]
    rows = list({row["key"]: row for backing in backings for row in backing["rows"]}.values())
    names = [name for name in COLOURS if any(name in backing["systems"] for backing in backings)]
    bars = [name for name in names if any(name != report.base_of(backing) for backing in backings)]
    row_height = len(bars) * (BAR + BAR_GAP) + ROW_GAP
    width = TITLES + len(backings) * (PANEL + MARGIN) + MARGIN
    height = TOP + len(rows) * row_height + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
             f'height="{height}" role="img" aria-label="kmsfs beside other file systems">', _style(names),
             f'<rect class="page" width="{width}" height="{height}"/>', *_heading(whole, names)]
    for i, row in enumerate(rows):
        top = TOP + i * row_height
        mark = "" if row["more is better"] else " ↓"
        parts.append(_text(TITLES - 10, top + (row_height - ROW_GAP) / 2 + 4, row["title"] + mark, "end"))
    low, high = bounds(whole)
    for i, backing in enumerate(backings):
        left = TITLES + i * (PANEL + MARGIN)
        parts += _panel(backing, rows, bars, left, row_height, low, high)
    return "\n".join([*parts, "</svg>"]) + "\n"


def bounds(whole):
    """Powers of ten, or one half on the left, between which all ratios and goals lie, and 1."""
    ratios = [value for backing in whole["backings"] for row in backing["rows"] for name in row["values"]
              if (value := report.ratio(row, name, report.base_of(backing)))]
    low = min([0.5, *ratios])
    high = max([2.0, *ratios, *[row["goal"] or 1 for backing in whole["backings"] for row in backing["rows"]]])
    return 0.5 if low >= 0.5 else 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def place_on(value, low, high):
    """From 0 to 1 along the axis."""
    return math.log(value / low) / math.log(high / low)


def _panel(backing, rows, bars, left, row_height, low, high):
    base = report.base_of(backing)
    bottom = TOP + len(rows) * row_height
    parts = [_text(left, TOP - 30, f"backing on {backing['file system']}, {base} = 1", "start", "strong")]
    for tick in ticks(low, high):
        x = left + PANEL * place_on(tick, low, high)
        kind = "one" if tick == 1 else "grid"
        parts += [f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>',
                  _text(x, TOP - 13, f"{tick:g}", "middle"), _text(x, bottom + 14, f"{tick:g}", "middle")]
    here = {row["key"]: row for row in backing["rows"]}
    one = left + PANEL * place_on(1, low, high)
    for i, key in enumerate(row["key"] for row in rows):
        for j, name in enumerate(bars):
            value = report.ratio(here[key], name, base) if key in here else None
            if not value or name == base:
                continue
            x = left + PANEL * place_on(value, low, high)
            y = TOP + i * row_height + j * (BAR + BAR_GAP)
            values = f"{report.value_cell(here[key], name)} {here[key]['unit']}"
            said = f"{here[key]['title']}: {name} {value:.2f}, {values}"
            parts.append(f'<rect class={quoteattr(name)} x="{min(x, one):.1f}" y="{y}" height="{BAR}" '
                         f'width="{max(abs(x - one), 1):.1f}"><title>{escape(said)}</title></rect>')
            if name == report.SUBJECT:
                parts += _subject(here[key], name, base, x, y, lambda at: left + PANEL * place_on(at, low, high))
    return parts


def _subject(row, name, base, x, y, across):
    """The ratio in figures, and a mark where it should be."""
    goal, parts = report.goal_of(row, base), []
    if x < across(1):
        parts.append(_text(x - 4, y + BAR, report.ratio_cell(row, name, base), "end", "small"))
    else:
        # Not across the mark.
        beside = max(x, across(goal)) if goal and across(goal) < x + 34 else x
        parts.append(_text(beside + 4, y + BAR, report.ratio_cell(row, name, base), "start", "small"))
    if goal:
        at = across(goal)
        parts.append(f'<line class="goal" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 2}" y2="{y + BAR + 2}"/>')
    return parts


def ticks(low, high):
    """1, 2 and 5 of each power of ten within the bounds."""
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [digit * 10.0**power for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick * 1.0001 and tick <= high * 1.0001]


def _heading(whole, names):
    header = whole["header"]
    cores, cpu, kernel, commit, date, rounds = (
        header.get(name, "?") for name in ("cores", "cpu", "kernel", "commit", "date", "rounds"))
    about = f"{cores} cores, {cpu}, Linux {kernel}; commit {commit}, {date}; medians of {rounds} rounds"
    parts = [_text(MARGIN, 28, "How many times better than the base, on a logarithmic axis", "start", "title"),
             _text(MARGIN, 46, about + "; | on a bar: its goal; ↓: less is better, turned round", "start", "small")]
    x = MARGIN
    for name in names:
        parts += [f'<rect class={quoteattr(name)} x="{x}" y="58" width="12" height="12"/>',
                  _text(x + 17, 68, name, "start")]
        x += 17 + 8 * len(name) + 22
    return parts


def _text(x, y, what, anchor, kind="plain"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(what)}</text>'


def _style(names):
    def rules(which, page, ink, grid):
        fills = " ".join(f"rect.{name} {{ fill: {COLOURS[name][which]} }}" for name in names)
        return (f".page {{ fill: {page} }} text {{ fill: {ink} }} {fills} .grid {{ stroke: {grid} }} "
                f".one, .goal {{ stroke: {ink} }}")

    return ("<style>text { font: 12px system-ui, sans-serif } .small { font-size: 10px } .strong { font-weight: 600 } "
            ".title { font-size: 16px; font-weight: 600 } line { stroke-width: 1 } .goal { stroke-width: 2 } "
            + rules(0, "#ffffff", "#1b1f24", "#e3e5e8")
            + " @media (prefers-color-scheme: dark) { " + rules(1, "#15181c", "#e6e8eb", "#31363d") + " }</style>")
