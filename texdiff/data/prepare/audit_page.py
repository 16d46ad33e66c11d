"""audit.html: every texture that was looked at, to look at. One file, no network, sortable by each column."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_FACTS = ("kept", "asset_id", "source", "texture", "reason", "split")  # first, and in this order
_WORDS = ("asset_id", "source", "texture", "reason")  # long ones, which need room
_HIDDEN = ("meshes", "content", "texture_sha256")  # in audit.jsonl; here they would only widen the table

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1rem; color: #222; background: #fff }}
table {{ border-collapse: collapse }}
th, td {{ padding: 2px 8px; text-align: left; border-bottom: 1px solid #ddd }}
td {{ max-width: 22rem; overflow-wrap: break-word }}
td.words {{ min-width: 10rem; overflow-wrap: anywhere }}
th {{ position: sticky; top: 0; background: #eee; cursor: pointer; white-space: nowrap }}
th[data-order="1"]::after {{ content: " \\25b2" }} th[data-order="-1"]::after {{ content: " \\25bc" }}
td img {{ width: 96px; height: 96px; object-fit: contain; background: #888; image-rendering: pixelated }}
tr.aside td {{ background: #fff3f0 }}
input {{ width: 24rem; font: inherit; padding: 4px; margin-bottom: 8px }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<input id="find" placeholder="show only rows with these words" aria-label="show only rows with these words">
<p>Each row: texture, mask (white: mapped), latent mask (the mask at 1/8, as nearest sampling keeps it).
Click a column's head to sort.</p>
<table><thead><tr><th data-still>texture</th><th data-still>mask</th><th data-still>latent mask</th>{heads}</tr></thead>
<tbody>
"""

_TAIL = """</tbody></table>
<script>
const body = document.querySelector("tbody"), rows = [...body.rows];
const value = (row, i) => row.cells[i].textContent;
document.querySelectorAll("th:not([data-still])").forEach(head => head.onclick = () => {
  const order = head.dataset.order === "1" ? -1 : 1, i = head.cellIndex;
  document.querySelectorAll("th").forEach(other => delete other.dataset.order);
  head.dataset.order = order;
  const number = rows.every(row => value(row, i) === "" || !isNaN(value(row, i)));
  rows.sort((a, b) => {
    const x = value(a, i), y = value(b, i);
    if (x === "" || y === "") return (x === "") - (y === "");
    return order * (number ? x - y : x.localeCompare(y));
  });
  body.append(...rows);
});
document.getElementById("find").oninput = event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  rows.forEach(row => row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)));
};
</script></body></html>
"""


def write_audit_page(
    path: Path, title: str, summary: str, columns: list[str], rows: Iterable[tuple[dict[str, Any], list[str]]]
) -> None:
    """Write the page. `rows`: audit rows with the data URIs of their thumbnails (none: the cells stay empty).

    Everything in a row may come from a file's name or its content, so everything is escaped.
    """
    shown = [*_FACTS, *(column for column in columns if column not in (*_FACTS, *_HIDDEN))]
    heads = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in shown)
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEAD.format(title=html.escape(title), summary=html.escape(summary), heads=heads))
        for row, thumbnails in rows:
            file.write('<tr class="kept">' if row["kept"] else '<tr class="aside">')
            images = [f'<td><img loading="lazy" alt="" src="{html.escape(uri)}"></td>' for uri in thumbnails]
            file.write("".join(images or ["<td></td>"] * 3))
            for column in shown:
                kind = ' class="words"' if column in _WORDS and row.get(column) else ""
                file.write(f"<td{kind}>{html.escape(_cell(row.get(column)))}</td>")
            file.write("</tr>\n")
        file.write(_TAIL)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
