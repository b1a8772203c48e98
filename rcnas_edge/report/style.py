"""How a page looks: one style sheet for every page, in light, in dark and on paper.

Blue and orange are told apart by every common kind of colour vision, and nothing is said by a colour alone. Letters
have a contrast of at least 4.5 to what they stand on, marks at least 3 (WCAG 2.2, AA; a test computes them).
"""

from __future__ import annotations

LIGHT = {
    "paper": "#fdfcfa",
    "panel": "#f4f1ec",
    "ink": "#1c2127",
    "faint": "#5a626b",
    "line": "#dedad2",
    "track": "#e6e1d8",
    "one": "#14589c",
    "two": "#b34a00",
    "three": "#7a4988",
    "good": "#0b6444",
    "bad": "#a8231c",
    "unsure": "#7d5200",
}
DARK = {
    "paper": "#14171b",
    "panel": "#1e2228",
    "ink": "#e7e5e0",
    "faint": "#a2a9b1",
    "line": "#33383f",
    "track": "#30353d",
    "one": "#7ab4f0",
    "two": "#f4a261",
    "three": "#cda0da",
    "good": "#6fd0a3",
    "bad": "#ff938a",
    "unsure": "#eec064",
}
LETTERS = ("ink", "faint", "one", "two", "three", "good", "bad", "unsure")
"""Colours that text has; the others are of areas and lines."""


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_variables(LIGHT)} }} }}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.2rem 1.1rem 5rem; max-width: 61rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
h1, h2 { font-family: Charter, "Iowan Old Style", "Palatino Linotype", Palatino, "Noto Serif", Georgia, serif;
  font-weight: 600; line-height: 1.22; text-wrap: balance; }
h1 { font-size: clamp(1.5rem, 1.15rem + 1.9vw, 2.25rem); margin: .5rem 0 .7rem; letter-spacing: -.01em; }
h2 { font-size: 1.45rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 44rem; }
ul { margin: .5rem 0; padding-left: 1.2rem; max-width: 44rem; } li { margin: .2rem 0; }
a { color: var(--one); text-underline-offset: .15em; }
section { margin-top: 2.6rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.kicker, .note, figcaption small, .legend, .missing, nav, dt, small { color: var(--faint); }
.kicker { margin: 0 0 1.1rem; font-size: .9rem; max-width: none; }
.lede { font-size: 1.06rem; }
.note, .legend, nav { font-size: .86rem; line-height: 1.45; }
nav { margin-top: 1.4rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; } nav a { color: inherit; }
.badge { display: inline-block; padding: .12rem .7rem .12rem .55rem; border: 1.5px solid currentColor;
  border-radius: 2rem; font-size: .92rem; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
.missing, .failed { padding: .55rem .9rem; border-left: 4px solid var(--line); background: var(--panel);
  border-radius: 0 .3rem .3rem 0; }
.failed { border-color: var(--bad); } .failed p, .failed ul { margin: .3rem 0; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .7rem; margin: 1.5rem 0 0; }
.tiles div { background: var(--panel); padding: .75rem .95rem .8rem; border-radius: .45rem; }
.tiles dt { font-size: .82rem; } .tiles dd { margin: 0; font-size: 1.55rem; font-weight: 600; line-height: 1.25; }
.tiles small { display: block; font-size: .82rem; font-weight: 400; line-height: 1.45; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 0 1.6rem;
  margin: .5rem 0; font-size: .9rem; }
.facts div { display: flex; justify-content: space-between; gap: .8rem; padding: .28rem 0; min-width: 0;
  border-bottom: 1px solid var(--line); }
.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; } .facts dt { flex: none; max-width: 60%;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .7rem 0; } .scroll:focus-visible { outline: 2px solid var(--one); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } th { font-weight: 600; min-width: 9rem; } thead th { font-size: .8rem;
  color: var(--faint); font-weight: 400; vertical-align: bottom; min-width: 0; } td.wrap { white-space: normal;
  min-width: 12rem; }
td small, th small { display: block; font-weight: 400; font-size: .8rem; white-space: normal; line-height: 1.4; }
code { font: .84em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; } details { margin: .8rem 0; }
figure { margin: 1.1rem 0; max-width: 29rem; min-width: 0; } figcaption { margin-bottom: .5rem; font-weight: 600;
  font-size: .95rem; } figure .note { margin: .3rem 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2.2rem;
  align-items: start; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .4rem 0 0; } .legend svg { display: inline-block;
  width: 14px; height: 14px; vertical-align: -2px; margin-right: .35rem; }
svg text { font-size: 10.5px; } .axis { fill: var(--faint); } .strong { fill: var(--ink); }
.name { fill: var(--colour); font-weight: 600; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
.grid { stroke: var(--line); fill: none; } .baseline { stroke: var(--faint); fill: none; }
.marker { stroke: var(--faint); stroke-dasharray: 3 3; fill: none; }
.one { --colour: var(--one); } .two { --colour: var(--two); } .three { --colour: var(--three); }
.quiet { --colour: var(--faint); } .over { --colour: var(--bad); }
.curve { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
.whisker { fill: none; stroke: var(--colour); stroke-width: 1.3; }
.dot { fill: var(--colour); stroke: var(--paper); stroke-width: .8; } .ring { fill: var(--paper);
  stroke: var(--colour); stroke-width: 1.3; } .star { fill: var(--paper); stroke: var(--colour); stroke-width: 2; }
.bar { fill: var(--colour); } .track { fill: var(--track); } .within { fill: var(--track); stroke: var(--faint);
  stroke-width: .7; } .limit { stroke: var(--ink); stroke-width: 2; fill: none; }
.predicted { fill: var(--paper); stroke: var(--ink); stroke-width: 1.2; }
.block-0 { fill: var(--one); } .block-1 { fill: var(--two); } .block-2 { fill: var(--three); }
.block-3 { fill: var(--ink); }
ul.missing { padding-left: 2rem; max-width: none; }
@media (max-width: 34rem) { tbody th { position: sticky; left: 0; background: var(--paper); min-width: 7.5rem; }
  body { padding-top: 1.3rem; } .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .tiles div { padding: .6rem .7rem; } .tiles dd { font-size: 1.2rem; } .tiles small { font-size: .78rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } figure, tr, .tiles div {
  break-inside: avoid; } h2, h3 { break-after: avoid; } .scroll { overflow: visible; } td { white-space: normal; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
)
