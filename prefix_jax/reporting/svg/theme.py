"""The page's style sheet: one accent colour, light and dark, wide and narrow, screen and paper."""

# Custom properties: colours on light and on dark.
LIGHT = """
  --page: #fafaf8; --card: #ffffff; --ink: #1c1f22; --soft: #5a6168; --line: #e4e4df; --grid: #ececE7;
  --accent: #0b6b74; --wash: #e8f2f2; --bare: #878d93; --worse: #a13d2d;
  --shade: rgb(28 31 34 / .26);
"""
DARK = """
    --page: #131618; --card: #1a1e21; --ink: #e7e8e6; --soft: #a0a7ad; --line: #2c3236; --grid: #252a2e;
    --accent: #6cc9c9; --wash: #16302f; --bare: #767e85; --worse: #e89a86;
    --shade: rgb(255 255 255 / .24);
"""
# How the parts of a drawing look.
CHART = """
.chart { display: block; width: 100%; height: auto; overflow: visible; font: 11px var(--sans); }
.chart .tick { fill: var(--soft); } .chart .label { fill: var(--soft); }
.chart .grid { stroke: var(--grid); } .chart .axis { stroke: var(--bare); }
.chart .mark { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.chart .line { stroke: var(--accent); stroke-width: 2; }
.chart .faint { stroke: var(--bare); stroke-width: 1; }
.chart .mark.spread { stroke-width: 1.2; stroke: var(--soft); stroke-dasharray: none; }
.chart path.points { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 1 4; }
.chart circle.points { fill: var(--card); stroke: var(--ink); stroke-width: 1.6; }
.chart circle.line { fill: var(--accent); stroke: none; }
.chart circle.faint { fill: var(--card); stroke: var(--bare); stroke-width: 2; }
.chart .caption { fill: var(--ink); font-size: 13px; font-weight: 600; }
.chart .cell { fill: var(--accent); }
"""

STYLE = (
    """
:root {
  color-scheme: light dark;
"""
    + LIGHT
    + """  --sans: Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
"""
    + DARK
    + """  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.6 var(--sans);
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main, .top, footer { max-width: 1080px; margin: 0 auto; padding: 0 28px; }
.top { padding-top: 64px; }
.kicker { margin: 0 0 10px; color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .04em; }
h1 { margin: 0; font-size: clamp(28px, 4.6vw, 44px); line-height: 1.14; letter-spacing: -.022em; font-weight: 650;
  text-wrap: balance; }
.lede { margin: 18px 0 0; max-width: 46em; color: var(--soft); font-size: 18px; text-wrap: pretty; }
.lede b { color: var(--ink); font-weight: 600; }
.meta { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 22px 0 0; padding: 0; list-style: none;
  color: var(--soft); font-size: 14px; }
nav { margin: 30px 0 0; padding: 12px 0; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 0; padding: 0; list-style: none; font-size: 14px; }
a { color: var(--accent); text-underline-offset: 3px; text-decoration-thickness: 1px; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
section { margin: 60px 0 0; scroll-margin-top: 20px; }
h2 { margin: 0 0 18px; font-size: 23px; line-height: 1.25; letter-spacing: -.012em; font-weight: 630; }
h3 { margin: 0 0 4px; font-size: 15px; font-weight: 620; }
.about { margin: -12px 0 22px; max-width: 46em; color: var(--soft); text-wrap: pretty; }
p code, li code, td code, .about code { font: .9em var(--mono); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; }
.empty { color: var(--soft); }
.notes { margin: 26px 0 0; padding: 14px 20px; border-left: 3px solid var(--worse); background: var(--card);
  border-radius: 0 10px 10px 0; font-size: 15px; }
.notes p { margin: 0; }
.failed { margin: 26px 0 0; padding: 16px 22px; border: 1px solid var(--worse); border-left-width: 6px;
  border-radius: 10px; background: var(--card); }
.failed p { margin: 0; color: var(--worse); font-weight: 650; font-size: 18px; }
.failed ul { margin: 6px 0 0; padding-left: 1.2em; }
.about.below { margin: 14px 0 0; font-size: 14px; }

.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(178px, 1fr)); gap: 14px; margin: 26px 0 0; }
.score { min-width: 0; padding: 18px 20px 16px; }
.score h3 { color: var(--soft); font-weight: 550; font-size: 14px; }
.score .big { margin: 2px 0 12px; font-size: 36px; line-height: 1.1; font-weight: 630; letter-spacing: -.03em; }
.score .long { font-size: 26px; } .score p { overflow-wrap: anywhere; }
.score .than { margin: 10px 0 0; color: var(--soft); font-size: 13.5px; }
.bars { display: block; width: 100%; height: 16px; }
.track { fill: var(--grid); } .bar.bare { fill: var(--bare); } .bar.tuned { fill: var(--accent); }
.score .than span { display: block; font-size: 15px; }
.nowrap { white-space: nowrap; }
.better { color: var(--accent); font-weight: 600; } .worse { color: var(--worse); font-weight: 600; }

.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 22px 28px; margin: 0; }
.facts dt { color: var(--soft); font-size: 13.5px; }
.facts dd { margin: 1px 0 0; font-weight: 550; }
.facts small { display: block; color: var(--soft); font-weight: 400; font-size: 13.5px; }

figure { margin: 0; }
figcaption { margin: 0 0 14px; } figcaption p { margin: 0; color: var(--soft); font-size: 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 14px; }
.charts.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.charts .whole { grid-column: 1 / -1; }
"""
    + CHART
    + """.narrow { display: none; }
@media (max-width: 640px) {
  .wide { display: none; } .narrow { display: block; } .charts.two .heat { font-size: 14px; }
}

.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--card) 35%, transparent) left / 44px 100% no-repeat local,
  linear-gradient(to left, var(--card) 35%, transparent) right / 44px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 16px 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 16px 100% no-repeat scroll; }
.scroll .chart { min-width: 880px; }
.data { float: right; margin-left: 12px; font-size: 13px; }
table { width: 100%; border-collapse: collapse; font-size: 15px; }
caption { padding: 0 0 10px; text-align: left; color: var(--soft); font-size: 14px; }
th, td { padding: 9px 18px 9px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-size: 13.5px; font-weight: 500; }
tbody th { font-weight: 550; }
.number { text-align: right; white-space: nowrap; } th:last-child, td:last-child { padding-right: 0; }
.stack > * + * { margin-top: 14px; }

.sample { padding: 0; overflow: hidden; }
.input { padding: 18px 22px 16px; }
.input p, .text p { margin: 0; white-space: pre-wrap; }
.eyebrow { margin: 0 0 4px !important; color: var(--soft); font-size: 13px; }
.pairs { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 0; } .pairs div { display: flex; gap: 7px; }
.pairs dt { color: var(--soft); } .pairs dd { margin: 0; font-weight: 550; }
.turns { display: grid; gap: 8px; margin: 0; } .turns div { display: grid; grid-template-columns: 6em 1fr; gap: 10px; }
.turns dt { color: var(--soft); } .turns dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.reference { margin-top: 14px; }
.reference p { color: var(--soft); }
.texts { display: grid; grid-template-columns: 1fr 1fr; border-top: 1px solid var(--line); }
.text { padding: 16px 22px 20px; } .text + .text { border-left: 1px solid var(--line); }
.text.tuned { background: var(--wash); } .text.tuned .eyebrow { color: var(--accent); font-weight: 600; }
.texts.alone { grid-template-columns: 1fr; }
@media (max-width: 640px) {
  .texts { grid-template-columns: 1fr; } .turns div { grid-template-columns: 1fr; gap: 0; }
  .text + .text { border-left: 0; border-top: 1px solid var(--line); }
}

.tokens { margin: 6px 0 0; font: 13.5px/2 var(--mono); }
.token { padding: 2px 1px; margin: 0 1px; white-space: pre-wrap; border-radius: 3px; background: var(--grid); }
.token.masked { color: var(--soft); background: none; border: 1px dotted var(--bare); }
.token.target { color: var(--accent); background: var(--wash); font-weight: 600; }

details > summary { cursor: pointer; color: var(--accent); font-size: 15px; width: fit-content; }
details[open] > summary { margin-bottom: 14px; }
.reference details { margin-top: 6px; } .reference summary { font-size: 13.5px; }
.reference details p + p { margin-top: 6px; }
.more { margin-top: 18px; }
pre { margin: 0; padding: 16px 18px; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; font: 13.5px/1.65 var(--mono); }
.options td, .options th { padding-top: 5px; padding-bottom: 5px; font-size: 14px; }
.options td { font-family: var(--mono); font-size: 13px; overflow-wrap: anywhere; }
.options tr.set th, .options tr.set td { color: var(--accent); }
footer { margin-top: 72px; padding-top: 20px; padding-bottom: 48px; color: var(--soft); font-size: 14px; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 16px; top: 16px; }
@media (max-width: 640px) {
  main, .top, footer { padding-left: 18px; padding-right: 18px; } .top { padding-top: 36px; }
  section { margin-top: 46px; } .card { padding: 16px; } .sample { padding: 0; }
  .input, .text { padding: 15px 16px; } .scores { grid-template-columns: 1fr 1fr; gap: 10px; }
  .score .big { font-size: 29px; } .score .long { font-size: 20px; }
  .lede { font-size: 17px; } .facts { grid-template-columns: 1fr 1fr; gap: 18px; }
}
@media print {
  body { background: #fff; } nav, .skip { display: none; } .card, pre { break-inside: avoid; }
}
"""
)
