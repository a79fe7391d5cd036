"""From what was measured to what is read: medians, spreads, ratios; text, Markdown, JSON.

The document is a plain value, as JSON has it, so that a report can be made again from a file.
"""

import json
import statistics

from .rows import ROWS

BASE = "gocryptfs"
# For the comparison with goals.
SUBJECT = "kmsfs"


def document(header, results):
    """Everything that is known of a run."""
    return {"header": header, "backings": [_backing(result) for result in results]}


def _backing(result):
    rows = []
    for row in ROWS:
        values, errors = result.values.get(row.key, {}), result.errors.get(row.key, {})
        if values or errors:
            rows.append({"key": row.key, "title": row.title, "unit": row.unit, "goal": row.goal,
                         "more is better": row.more_is_better, "values": values, "errors": errors})
    return {"backing": result.backing, "file system": result.file_system, "systems": result.systems,
            "left out": result.left_out, "rows": rows}


def to_json(whole):
    """With what follows from the values, for readers that do not want to work it out."""
    for backing in whole["backings"]:
        base = base_of(backing)
        for row in backing["rows"]:
            row["medians"] = {name: median(row, name) for name in row["values"]}
            row["ratios"] = {name: ratio(row, name, base) for name in row["values"]}
    return json.dumps(whole, indent=1) + "\n"


def median(row, name):
    values = row["values"].get(name)
    return statistics.median(values) if values else None


def spread(row, name):
    """The least and the greatest."""
    values = row["values"].get(name)
    return (min(values), max(values)) if values else None


def ratio(row, name, base):
    """How many times better than the base, whichever way better is; None where either has no value, or one that no
    ratio can be made of: a process may use less than can be counted, or less memory than before."""
    one, other = median(row, name), median(row, base)
    if not row["more is better"]:
        one, other = other, one
    return one / other if one is not None and other is not None and one > 0 and other > 0 else None


def base_of(backing):
    """What is 1.00: gocryptfs, or else the first that is there."""
    names = list(backing["systems"])
    return BASE if BASE in names else names[0]


def goal_of(row, base):
    """Goals are ratios to gocryptfs: without it there is none."""
    return row["goal"] if base == BASE else None


def number(value):
    """Three digits, as far as they say something."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_cell(row, name, base):
    if not row["values"].get(name):
        return "error" if row["errors"].get(name) else "–"
    value = ratio(row, name, base)
    text = "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    # Part of the rounds have failed.
    return text + (" (error)" if row["errors"].get(name) else "")


def value_cell(row, name):
    if not row["values"].get(name):
        return "error" if row["errors"].get(name) else "–"
    low, high = spread(row, name)
    return f"{number(median(row, name))} ({number(low)}–{number(high)})"


def below(backing):
    """Rows of kmsfs that are below their goal, or without one below the base: title, ratio, goal."""
    base, found = base_of(backing), []
    for row in backing["rows"]:
        value, goal = ratio(row, SUBJECT, base), goal_of(row, base) or 1.0
        if SUBJECT != base and value is not None and value < goal:
            found.append((row["title"], value, goal))
    return found


def tables(backing):
    """Two tables as lists of cells, the first line of each its heading: ratios, and medians with spreads."""
    base, names = base_of(backing), list(backing["systems"])
    ratios = [["ratio", *names, "goal"]]
    medians = [["median (least–greatest)", "unit", *names]]
    for row in backing["rows"]:
        mark = "" if row["more is better"] else " ↓"
        goal = f"≥ {goal_of(row, base):g}" if goal_of(row, base) else ""
        ratios.append([row["title"] + mark, *[ratio_cell(row, name, base) for name in names], goal])
        medians.append([row["title"] + mark, row["unit"], *[value_cell(row, name) for name in names]])
    return ratios, medians


def header_lines(whole):
    """What a reader has to know before the figures."""
    lines = [f"{name}: {_plain(value)}" for name, value in whole["header"].items()]
    lines.append("ratios: more than 1 is better in every row; ↓: less of the unit is better, the ratio turned round")
    return lines


def backing_lines(backing):
    lines = [f"backing on {backing['file system']}; {base_of(backing)} = 1.00"]
    lines += [f"{name}: {about}" for name, about in backing["systems"].items()]
    lines += [f"{name}: left out: {why}" for name, why in backing["left out"].items()]
    return lines


def error_lines(backing):
    return [f"error: {row['title']}: {name}: {why}"
            for row in backing["rows"]
            for name, reasons in row["errors"].items() for why in dict.fromkeys(reasons)]


def below_lines(backing):
    return [f"below {goal:g}: {title}: {value:.2f}" for title, value, goal in below(backing)]


def to_text(whole):
    parts = header_lines(whole)
    for backing in whole["backings"]:
        parts += ["", *backing_lines(backing)]
        for table in tables(backing):
            parts += ["", *_aligned(table)]
        parts += ["", *below_lines(backing), *error_lines(backing)]
    return "\n".join(parts).rstrip() + "\n"


def to_markdown(whole):
    parts = [f"- {line}" for line in header_lines(whole)]
    for backing in whole["backings"]:
        parts += ["", f"### {backing['file system']}", "", *[f"- {line}" for line in backing_lines(backing)]]
        for heading, *lines in tables(backing):
            parts += ["", _markdown_row(heading), "|---" * len(heading) + "|", *map(_markdown_row, lines)]
        if errors := error_lines(backing):
            parts += ["", *[f"- {line}" for line in errors]]
    return "\n".join(parts) + "\n"


def _markdown_row(cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(table):
    first, *others = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip() for line in table]


def _plain(value):
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)
