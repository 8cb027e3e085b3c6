"""The numbers and pictures of a run as one HTML file, without the network."""

import base64
import html
import io

from zoo.reports import GROUPS, per_cent, protocols

MEASURES = ("CP", "CR", "CF1", "OP", "OR", "OF1")

STYLE = """
:root { color-scheme: light dark; --line: #d8dce2; --soft: #f4f6f8;
  --text: #1c2024; --faint: #5d6673; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --line: #343a43; --soft: #1d2127; --text: #e6e9ed;
    --faint: #9aa4b1; --page: #121519; }
  .chart { filter: invert(1) hue-rotate(180deg); }
}
body { margin: 2rem auto; padding: 0 1.2rem; max-width: 62rem;
  font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--page); }
h1 { font-size: 1.7rem; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
dl { margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
.tiles div { flex: 1 1 8rem; padding: .7rem 1rem; border-radius: .5rem;
  background: var(--soft); }
.tiles dd { font-size: 1.7rem; font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content 1fr;
  gap: .25rem 1.5rem; }
.facts div { display: contents; }
dt, .note { color: var(--faint); font-size: .9rem; }
.scroll { overflow: auto; max-height: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--page); }
th:first-child { text-align: left; font-weight: 500; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid currentColor; }
th button::after { content: " \\2195"; color: var(--faint); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
figure { margin: 0 0 1rem; overflow-x: auto; }
.photos { box-sizing: border-box; width: 100%; height: auto;
  padding: .4rem; border-radius: .5rem; background: #fff;
  border: 1px solid var(--line); }
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.onclick = () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const rises = head.ariaSort !== "ascending";
    for (const other of head.parentElement.cells) other.ariaSort = null;
    head.ariaSort = rises ? "ascending" : "descending";
    const text = row => row.cells[head.cellIndex].textContent;
    const order = new Intl.Collator(undefined, {numeric: true});
    const rows = [...body.rows].sort((a, b) => order.compare(text(a), text(b)));
    body.append(...(rises ? rows : rows.reverse()));
  };
}
"""


def page(title, facts, report, sections):
    """Writes a report that opens from disk, in light and dark.

    Args:
        title: str. What was measured on what.
        facts: dict from str to str: the model, the data, the protocol.
        report: dict, as `zoo.reports.table` takes it.
        sections: dict from heading to `(note, figures)`: how to read them,
            and a list of `(figure, alt)`, each a `matplotlib.figure.Figure`
            and what it shows in words.

    Returns:
        str, a whole HTML document: style, script and pictures are within.
    """
    mode = report["mAP_mode"]
    tiles = {
        f"mAP ({mode})": report["mAP"],
        "CF1, all": report["all"]["CF1"],
        "OF1, all": report["all"]["OF1"],
        "CF1, top 3": report["top3"]["CF1"],
        "OF1, top 3": report["top3"]["OF1"],
    }
    overall = [
        (name, *(per_cent(report[key][measure]) for measure in MEASURES))
        for name, key in protocols(report).items()
    ]
    classes = [
        (name, f"{report['num_positives'][name]}", per_cent(ap))
        for name, ap in report["AP"].items()
    ]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _pairs("tiles", {k: per_cent(value) for k, value in tiles.items()}),
        "<h2>What was measured</h2>",
        _pairs("facts", facts),
        "<h2>Precision, recall and F1, in per cent</h2>",
        _table(("", *MEASURES), overall),
        '<p class="note">C: mean over classes; O: over all labels. Top 3: at '
        "most the three most probable labels of an image.</p>",
        f"<h2>Each class: AP ({html.escape(mode)}), in per cent</h2>",
        _table(
            [
                f"<button>{name}</button>"
                for name in ("class", "positives", "AP")
            ],
            classes,
        ),
    ]
    for word, (_, key, amount, form) in GROUPS.items():
        if word in report:
            found = report[word]
            parts += [
                f"<h2>The {word} classes</h2>",
                _table(
                    ("class", amount, html.escape(f"AP ({mode}), %")),
                    [
                        (name, form.format(found[key][name]), per_cent(ap))
                        for name, ap in found["AP"].items()
                    ]
                    + [("mean", "", per_cent(found["mAP"]))],
                ),
            ]
    for heading, (note, figures) in sections.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        parts.append(f'<p class="note">{html.escape(note)}</p>')
        parts += [_figure(figure, alt) for figure, alt in figures]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{chr(10).join(parts)}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _pairs(kind, values):
    rows = [
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
        for name, text in values.items()
    ]
    return "\n".join([f'<dl class="{kind}">', *rows, "</dl>"])


def _table(head, rows):
    """Gives a table; the cells of its head are HTML already."""
    lines = [
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    ]
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return "\n".join(
        [
            '<div class="scroll"><table>',
            f"<thead><tr>{titles}</tr></thead>",
            *("<tbody>", *lines, "</tbody>"),
            "</table></div>",
        ]
    )


def _figure(figure, alt):
    """Renders a figure into the page, at twice its size for sharp screens."""
    # Photos keep their colours in the dark; charts, transparent, are inverted.
    is_chart = not any(axis.images for axis in figure.axes)
    file = io.BytesIO()
    figure.savefig(
        file,
        format="webp",
        dpi=2 * figure.dpi,
        transparent=is_chart,
        pil_kwargs={"lossless": is_chart},
    )
    content = base64.b64encode(file.getvalue()).decode("ascii")
    kind = "chart" if is_chart else "photos"
    width = round(figure.get_figwidth() * figure.dpi)
    return (
        f'<figure><img class="{kind}" width="{width}" alt="{html.escape(alt)}" '
        f'src="data:image/webp;base64,{content}"></figure>'
    )
