"""Tokens in the colours of their χ, as a page that needs nothing else."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_llc.numerals import number, short

if TYPE_CHECKING:
    from hf_llc.studies.susceptibility_table import SusceptibilityTable, Tokens

_EXAMPLES = 6
"""Of each probe; the rest is in the parquet file."""

_MOST = 4000
"""Tokens of each probe."""

_STYLE = (
    "body{font:15px/1.9 sans-serif;margin:2em auto;padding:0 1em;max-width:60em}"
    "pre{white-space:pre-wrap;font:inherit;background:#fafafa;padding:.6em}span{border-radius:3px}select{font:inherit}"
)
_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const chosen = document.getElementById('component'), spans = document.querySelectorAll('span[data-i]');
data.components.forEach((name, k) => chosen.add(new Option(name, k)));
function draw() {
  const z = data.z[chosen.value], chi = data.chi[chosen.value];
  document.getElementById('judged').textContent = data.judged[chosen.value];
  spans.forEach(s => {
    const i = +s.dataset.i, v = z[i], a = Math.min(Math.abs(v) / 3, 1) * 0.8;
    s.style.background = v < 0 ? `rgba(0,114,178,${a})` : `rgba(213,94,0,${a})`;
    s.title = `z ${v}, χ ${chi[i][0]} ± ${chi[i][1]}`;
  });
}
chosen.onchange = draw; draw();
"""


def render_html(table: SusceptibilityTable) -> str:
    """The page: a choice of components, and the first examples of each probe."""
    parts, shown, start = [], list[int](), 0
    for each in table.tokens:
        parts.append(f"<h2>{html.escape(each.probe)}</h2>")
        parts += _examples(each, start, shown, table.level)
        start += len(each.text)
    data: dict[str, Any] = {
        "components": [column.component for column in table.columns],
        "judged": [f"{c.judged}, reliability {short(c.found.reliability)}" for c in table.columns],
        "z": [np.round(np.nan_to_num(column.found.z[shown]), 2).tolist() for column in table.columns],
        "chi": [
            [[number(a), short(b)] for a, b in zip(c.found.chi[shown], c.found.chi_se[shown], strict=True)]
            for c in table.columns
        ],
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return (
        "<!doctype html><!-- hf_llc susceptibility --><meta charset='utf-8'><title>Susceptibilities</title>"
        f"<style>{_STYLE}</style><h1>Susceptibilities</h1><p>{html.escape(table.headline)}</p>"
        "<p>Component <select id='component'></select>: <b id='judged'></b>. Blue: χ below its mean over tokens "
        "(the component lowers the loss of such tokens more than of others); orange: above; full "
        "colour at 3 standard deviations.</p>"
        f"{''.join(parts)}<script id='data' type='application/json'>{text}</script><script>{_SCRIPT}</script>"
    )


def _examples(tokens: Tokens, start: int, shown: list[int], level: str) -> list[str]:
    """The first examples of a probe; the numbers of their tokens are added to `shown`."""
    texts: dict[int, list[str]] = {}
    for i, (example, piece) in enumerate(zip(tokens.example.tolist(), tokens.text, strict=True)):
        if (example >= _EXAMPLES and level == "token") or i >= _MOST:
            break
        texts.setdefault(example, []).append(f"<span data-i='{len(shown)}'>{html.escape(piece)}</span>")
        shown.append(start + i)
    return [f"<pre>{''.join(spans)}</pre>" for spans in texts.values()]
