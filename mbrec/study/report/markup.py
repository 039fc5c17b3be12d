"""The pieces of a page. Nothing else makes tags, and all text between them is escaped."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #d8dee4; --tint: #f4f6f8; --blue: #1f5f99; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 28px 60px; max-width: 1080px; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 38px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 6px 0 10px; max-width: 82ch; overflow-wrap: anywhere; }
p.how { color: var(--soft); }
ul.found { margin: 8px 0 12px; padding: 10px 14px 10px 32px; background: #eef4fa;
  border-left: 4px solid var(--blue); }
ul.warned { margin: 8px 0 12px; padding: 10px 14px 10px 32px; background: #fdf3e1;
  border-left: 4px solid #c27c0e; }
li { margin: 3px 0; overflow-wrap: anywhere; }
nav { margin: 14px 0 0; font-size: 14px; }
nav a { color: var(--blue); margin-right: 14px; white-space: nowrap; display: inline-block; }
div.wide { overflow-x: auto; margin: 10px 0 14px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; padding-left: 12px; }
td:first-child, th:first-child { max-width: 34ch; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
figure { margin: 12px 0 16px; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; max-width: 96ch; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--blue); }
pre { background: var(--tint); padding: 12px; font-size: 12.5px; line-height: 1.4;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2, p.how { break-after: avoid; }
  tr, ul { break-inside: avoid; }
  div.wide { overflow: visible; }
  ul, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  @page { margin: 14mm; }
}
"""
# Pixels of the page for an inch of a picture: the widest, of 12 inches, fill it.
_PIXELS = 85


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its name in links.
        title: its head line.
        body: pieces of markup.
    """

    anchor: str
    title: str
    body: Sequence[str]


def page(title: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole document, which refers to nothing outside of itself.

    Args:
        title: of the document.
        head: pieces of markup above the links to the sections.
        sections: in order.
    """
    # Should an escape be missing somewhere, a browser still loads and runs nothing.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    links = [f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections]
    body = [*head, f"<nav>{' '.join(links)}</nav>"]
    for section in sections:
        body.append(f'<h2 id="{escape(section.anchor)}">{escape(section.title)}</h2>')
        body += section.body
    return document + "\n".join(body) + "\n</body>\n</html>\n"


def heading(text: str) -> str:
    """Return the head line of the page."""
    return f"<h1>{escape(text)}</h1>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def how(text: str) -> str:
    """Return the sentences that explain what follows."""
    return f'<p class="how">{escape(text)}</p>'


def findings(sentences: Sequence[str]) -> str:
    """Return the findings as a list; nothing if there are none."""
    return _list("found", sentences)


def warnings(sentences: Sequence[str]) -> str:
    """Return warnings as a list; nothing if there are none."""
    return _list("warned", sentences)


def _list(kind: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table.

    Args:
        headers: of the columns; none: the first column says what the others are.
        rows: their cells.
        texts: columns on the left that hold text; the others hold numbers, to the right.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if i < texts else ' class="number"' for i in range(len(cells))]
        parts = [f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    head, kind = f"<thead>{line('th', headers)}</thead>\n", ""
    if not headers:
        head, kind = "", ' class="facts"'
    return f'<div class="wide"><table{kind}>\n{head}<tbody>\n{body}\n</tbody></table></div>'


def facts(pairs: Mapping[str, str]) -> str:
    """Return named facts as a table without a head; empty values are left out."""
    return table([], [[name, text] for name, text in pairs.items() if text], texts=2)


def folded(summary: str, text: str) -> str:
    """Return a long text that a reader unfolds."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def picture(png: bytes, inches: tuple[float, float], alt: str, caption: str = "") -> str:
    """Return a picture, as a part of the page.

    Args:
        png: its bytes.
        inches: its width and height.
        alt: for readers who do not see it.
        caption: below it.
    """
    width, height = (round(_PIXELS * size) for size in inches)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
        f"{below}</figure>"
    )
