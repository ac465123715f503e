"""The demo's report: one HTML page, complete in itself."""

import html

from stores.files import replace_atomically
from stores.manifests import Manifest
from stores.names import Counter, Step

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .7rem; border-bottom: 1px solid #e4e4e4 }
th { text-align: left; font-weight: 600; color: #555 }
td:first-child { white-space: nowrap } .gates td { white-space: normal }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 2rem }
.ok { color: #1a7f37 } .no { color: #b3261e } svg { display: block }
@media (max-width: 45rem) { .two { display: block } }
"""
COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#edc948",
    "#b07aa1",
    "#9c755f",
    "#bab0ac",
    "#ff9da7",
    "#86bcb6",
)


def _table(head: list[str], rows: list[list[str]], numbers: int = 1) -> str:
    """An HTML table; columns from `numbers` on are set flush right. Cells are HTML."""
    kind = ["" if index < numbers else ' class="n"' for index in range(len(head))]
    top = "".join(f"<th{k}>{h}</th>" for h, k in zip(head, kind, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{cell}</td>" for cell, k in zip(row, kind, strict=True)) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _number(value: float) -> str:
    """Whole numbers whole, others to four digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def stage_bars(released: list[Manifest]) -> str:
    """Seconds of work a step, one bar a release."""
    steps = sorted({step for manifest in released for step in manifest.timings})
    longest = max(sum(manifest.timings.values()) for manifest in released) or 1.0
    lines, width = [], 640
    for number, manifest in enumerate(released):
        x = 110.0
        lines.append(f'<text x="0" y="{number * 34 + 21}">{manifest.date}</text>')
        for step, colour in zip(steps, COLOURS * 3, strict=False):
            long = manifest.timings.get(step, 0.0) / longest * width
            title = f"{step}: {manifest.timings.get(step, 0.0):.1f} s"
            lines.append(
                f'<rect x="{x:.1f}" y="{number * 34 + 4}" width="{long:.1f}" height="24" fill="{colour}">'
                f"<title>{title}</title></rect>"
            )
            x += long
        lines.append(f'<text x="{x + 6:.1f}" y="{number * 34 + 21}">{sum(manifest.timings.values()):.1f} s</text>')
    legend = " ".join(
        f'<span style="white-space:nowrap"><span style="color:{colour}">&#9632;</span> {step}</span>'
        for step, colour in zip(steps, COLOURS * 3, strict=False)
    )
    height = len(released) * 34 + 6
    return f'<svg width="100%" viewBox="0 0 840 {height}" font-size="14">{"".join(lines)}</svg><p>{legend}</p>'


def _nights(released: list[Manifest]) -> str:
    """A table of what came in and what went out, a row per release."""

    def counted(manifest: Manifest, step: str, name: str) -> str:
        return f"{manifest.counters.get(step, {}).get(name, 0):,}"

    head = ["day", "rows read", "dropped", "active", "embedded", "carried over", "users", "pins", "recall@10"]
    days = [
        [
            manifest.date,
            counted(manifest, Step.READ_LOGS, Counter.ROWS_READ),
            counted(manifest, Step.READ_LOGS, Counter.ROWS_DROPPED),
            counted(manifest, Step.UPDATE_HISTORIES, Counter.USERS_ACTIVE),
            counted(manifest, Step.EMBED_USERS, Counter.USERS_EMBEDDED),
            counted(manifest, Step.MERGE_SNAPSHOT, Counter.USERS_CARRIED_OVER),
            f"{manifest.rows('user_embeddings'):,}",
            f"{manifest.rows('pin_embeddings'):,}",
            f"{manifest.settings['index']['recall_at_10']:.4f}",
        ]
        for manifest in released
    ]
    return _table(head, days)


def _gates(release: Manifest) -> str:
    """A table of the gates that a release passed."""
    gates = [
        [
            html.escape(gate["reads"]),
            _number(gate["measured"]),
            _number(gate["threshold"]),
            '<span class="ok">passed</span>' if gate["passed"] else '<span class="no">REFUSED</span>',
        ]
        for gate in release.gates
    ]
    return _table(["check", "measured", "threshold", ""], gates)


def write_report(
    path: str,
    released: list[Manifest],
    user: int,
    bought: list[tuple[str, str, str, str]],
    retrieved: list[tuple[float, str]],
    columns: tuple[str, ...],
    measured: list[list[str]],
    told: list[str],
) -> None:
    """Writes the page.

    Args:
        released: Oldest first.
        bought: Day, name, action, surface of the household's last purchases.
        retrieved: Score and name, best first.
        columns: What the cells of `measured` are.
        measured: A row for every way to recommend.
        told: Which weights were kept, of whom the figures are, and how much alike the answers are.
    """
    left = _table(
        ["", "last purchases", "how", "where"], [[html.escape(cell) for cell in row] for row in bought], numbers=4
    )
    right = _table(["retrieved products", "score"], [[html.escape(name), f"{score:.3f}"] for score, name in retrieved])
    recalls = _table(list(columns), [[html.escape(cell) for cell in row] for row in measured])
    kept, asked, served = (html.escape(text) for text in told)
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>pinnerformer demo</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style>
<h1>Three nights of real receipts</h1>
<p>Each night turned the day's receipts into one embedding per household, in the key-value store, and one embedding per
product, in {len(released[-1].parts("indexes"))} HNSW shards. Release <b>{released[-1].release}</b>
is being served.</p>
<h2>What came in and what went out</h2>{_nights(released)}
<h2>Does the model know households?</h2>
<p>The share of what households bought next that was among their ten nearest products: {asked}.</p>{recalls}
<p>The model: {kept}.</p><p>{served}.</p>
<h2>Household {user}</h2><div class="two"><div>{left}</div><div>{right}</div></div>
<h2>Seconds of work, by step</h2>{stage_bars(released)}
<h2>The gates that the last release passed</h2>
<div class="gates">{_gates(released[-1])}</div>
</html>
"""
    with replace_atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page)
