"""Runs cells, and makes of what they found a part of the results page.

Takes: which servers, loads and rows there are. Gives: medians, ratios, outcomes, and the page with one part replaced.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

from servers import ROOT, TOOLS, Failed


def run_cell(options, kinds, name, work):
    server = kinds[name](options)
    try:
        server.start()
        return work(options, server)
    except subprocess.TimeoutExpired:
        return Failed(f"time-out after {options.patience} s")
    except (Failed, OSError, KeyError) as error:
        return Failed(str(error) or repr(error))
    finally:
        server.remove()


def measure(options, kinds, loads):
    """Returns load → server → what each round gave."""
    found = {}
    for load, (names, work, rounds) in loads.items():
        if options.loads and load not in options.loads:
            continue
        for number in range(getattr(options, rounds)):
            for name in names:
                if name in options.without:
                    continue
                begun = time.monotonic()
                result = run_cell(options, kinds, name, work)
                found.setdefault(load, {}).setdefault(name, []).append(result)
                text = result if isinstance(result, Failed) else ", ".join(f"{k} {v}" for k, v in result.items())
                seconds = time.monotonic() - begun
                print(f"{load:<10} {number + 1} {name:<14} {seconds:4.0f} s  {text}", file=sys.stderr, flush=True)
    return found


def median(results, number):
    """Median of the rounds, or the reason why there is none."""
    values = [result if isinstance(result, Failed) else result[number] for result in results]
    for value in values:
        if isinstance(value, Failed):
            return None, str(value)
    return statistics.median(values), None


def shown(value):
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.2f}"


def best_of(values, number, more, same_promise):
    """Returns name and value of the best peer that gives the same promise."""
    names = same_promise.get(number)
    peers = [(value, name) for name, value in values.items()
             if not name.startswith("hongqiao") and (names is None or name in names)]
    return (max if more else min)(peers) if peers else (None, None)


def verdict(name, aim, values, best):
    """Returns ratio, aim and outcome of one of ours."""
    tag = "disk: " if name == "hongqiao disk" else ""
    if name not in values:
        return f"{tag}–", f"{tag}{aim.text}", f"{tag}**failed**"
    ratio = f"{values[name] / best:.2f} ×" if best else "–"
    return f"{tag}{ratio}", f"{tag}{aim.text}", f"{tag}{aim.outcome(values[name], best)}"


def table(options, book, found):
    """Writes the rows of `book` (NAMES, LOADS, ROWS, SAME_PROMISE); returns lines, and why cells failed."""
    names = [name for name in book.NAMES if name not in options.without]
    head = [*names, "best peer", "ratio to it", "aim", "outcome"]
    lines, notes = ["| row | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"], []
    for title, load, number, more, aims in book.ROWS:
        if load not in found:
            lines.append(f"| {title} |" + " not run |" * len(head))
            continue
        cells, values = [], {}
        for name in names:
            if name not in book.LOADS[load][0]:
                cells.append("as hongqiao" if name == "hongqiao disk" else "–")
                continue
            value, failed = median(found[load][name], number)
            if failed:
                notes.append(f"* {title}; {name}: {failed}")
                cells.append("failed, see below")
            else:
                values[name] = value
                cells.append(shown(value))
        best, peer = best_of(values, number, more, book.SAME_PROMISE)
        ours = [verdict(name, aim, values, best) for name, aim in aims.items() if name not in options.without]
        columns = ["; ".join(column) for column in zip(*ours)] or ["left out"] * 3
        lines.append(f"| {title} | " + " | ".join([*cells, peer or "–", *columns]) + " |")
    return lines, notes


def machine():
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}"


def commit():
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def replace_part(output, heading, lines):
    """Writes one part of a page, from its `# heading` to the next one, and leaves the others as they are."""
    old = output.read_text() if output.exists() else ""
    parts = [part for part in re.split(r"(?m)^(?=# )", old) if part.strip()]
    new = "\n".join([f"# {heading}", *lines]).rstrip() + "\n"
    at = next((n for n, part in enumerate(parts) if part.startswith(f"# {heading}\n")), None)
    if at is None:
        parts.append(new)
    else:
        parts[at] = new
    output.write_text("\n".join(part.rstrip() + "\n" for part in parts))


def setting(load_average, raw_fdatasync, minutes):
    """Where and when the figures were made."""
    return [
        f"* Machine: {machine()}",
        f"* Date: {datetime.date.today().isoformat()}; commit: {commit()}; {minutes:.0f} minutes",
        f"* Load of the machine before the first row: {load_average:.1f} (1 minute); above 0.5, take rates for "
        "lower bounds and compare ratios only",
        "* The load generator is `hongqiao bench` on one thread of the same machine",
        f"* This disk alone: {raw_fdatasync:,.0f} appends with fdatasync per second",
    ]


def footnotes(options, kinds, versions, notes):
    """What stands below a table."""
    text = ["Failed:", "", *sorted(set(notes)), ""] if notes else []
    for name in options.without:
        text += [f"{name} was left out by the person who ran this.", ""]
    text += ["What a server promises with its acknowledgement, and its version:", ""]
    return text + [f"* {name}: {kinds[name].promise}; {version}" for name, version in versions.items()]


def fdatasync(options):
    """The disk alone: one small append and one fdatasync after the other, per second."""
    with tempfile.NamedTemporaryFile(dir=options.data) as file:
        begun, count = time.monotonic(), 0
        while time.monotonic() < begun + 3:
            os.write(file.fileno(), b"x" * 512)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.monotonic() - begun)


def common_arguments(parser, loads, kinds):
    """Adds the options that every comparison has, and reads the command line."""
    parser.add_argument("--quick", action="store_true", help="one short round of each; shows that all of it works")
    parser.add_argument("--patience", type=int, default=120, help="seconds before a load counts as failed")
    parser.add_argument("--loads", nargs="*", choices=list(loads), help="only these")
    parser.add_argument("--without", nargs="*", default=[], choices=list(kinds), help="leave servers out")
    parser.add_argument("--data", default=None, help="folder for the data of the servers, on a real disk")
    parser.add_argument("--hongqiao-set", nargs="*", default=[], metavar="KEY=VALUE", help="more configuration")
    parser.add_argument("--output", default=None, help="default: benches/RESULTS.md; with --quick, .tools/quick.md")
    options = parser.parse_args()
    options.output = options.output or str(TOOLS / "quick.md" if options.quick else ROOT / "benches" / "RESULTS.md")
    options.data = options.data or str(TOOLS)
    return options


def publish(what, options, kinds, book, page):
    """Runs everything, and writes what `page` makes of it into the part of the page that is called after `what`."""
    TOOLS.mkdir(exist_ok=True)
    versions = {name: kind.version() for name, kind in kinds.items() if name not in options.without}
    print("; ".join(f"{name}: {version}" for name, version in versions.items()), file=sys.stderr)
    begun, load_average = time.monotonic(), os.getloadavg()[0]
    raw = fdatasync(options)
    found = measure(options, kinds, book.LOADS)
    plain = lambda value: {"failed": str(value)} if isinstance(value, Failed) else value
    (TOOLS / f"{what.split('-')[-1]}.json").write_text(json.dumps(found, indent=1, default=plain))
    place = setting(load_average, raw, (time.monotonic() - begun) / 60)
    text = page(options, versions, found, place)
    if options.quick:
        text[1:1] = ["**A quick run that shows that the script works; its figures mean nothing.**", ""]
    replace_part(pathlib.Path(options.output), f"Results of `{what}`", text)
    print(f"wrote {options.output}", file=sys.stderr)
