"""The rooms of benches/compare.

command    arguments, and what is done in which order
run        rounds: who is measured when, and what becomes of errors
rows       what is measured: the table of steps; rows_data, rows_tree, rows_commits, rows_daemon do the work
place      what a step may use on one mount
content    bytes and trees that are written, and whether they came back
mounts     the file systems
machine    commands, caches, packages, and what is known of the machine
report     medians, ratios, text, Markdown, JSON
chart      the SVG
selftest   tests of the rooms that measure nothing
"""
