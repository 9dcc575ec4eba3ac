"""How the demo page looks: light and dark, wide and narrow."""

STYLE = """
:root { --ground: #f7f6f3; --card: #ffffff; --ink: #1d2125; --dim: #5c646d; --line: #dedbd4;
  --accent: #0b6e6e;
  --fill: #d3e8e6; --good: #1c6b34; --good-fill: #e3f4e7; --fresh: #9a4a00;
  --s0: #0072b2; --s1: #c04e01; --s2: #00805c; --s3: #a8407e; --s4: #7a6200; --s5: #5a5a5a; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171a; --card: #1e2327; --ink: #eceff1; --dim: #a6b0b9; --line: #363d44;
    --accent: #5cc8c2;
    --fill: #24494a; --good: #7fd896; --good-fill: #1c3524; --fresh: #f5ae6b;
    --s0: #6cb8ee; --s1: #f59a5b; --s2: #4fcfa5; --s3: #e793c3; --s4: #dcc353; --s5: #b9b9b9; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.15; letter-spacing: -.02em; margin: 0;
  overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 44px 0 4px; }
h3 { font-size: 1.02rem; margin: 0; color: var(--accent); overflow-wrap: anywhere; }
h4 { font-size: .88rem; margin: 14px 0 8px; }
h4 small { font-weight: 400; font-size: inherit; color: var(--dim); margin-left: 6px; }
.lead { color: var(--dim); font-size: 1.06rem; margin: 10px 0 0; max-width: 46rem; }
.note { color: var(--dim); margin: 0 0 14px; }
main { padding-bottom: 64px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 16px; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: 500; }
thead th { border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.rule > * { border-top: 2px solid var(--dim); }
.scroll + .note { margin-top: 10px; }
.cost > * { color: var(--dim); font-size: .9rem; }
.bar { display: block; width: 96px; height: 4px; margin: 3px 0 0 auto; }
.bar i { display: block; height: 100%; margin-left: auto; border-radius: 2px; background: var(--fill); }
strong + .bar i { background: var(--accent); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 16px; }
figure { margin: 0; padding: 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
figure > svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--dim); font-size: .9rem; }
svg text { fill: var(--dim); font-size: 13px; }
.grid { stroke: var(--line); stroke-width: 1; }
.curve { fill: none; stroke-width: 2.4; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 7 4; } .s2 { stroke: var(--s2);
  stroke-dasharray: 2 5; }
.s3 { stroke: var(--s3); stroke-dasharray: 10 4 2 4; } .s4 { stroke: var(--s4); stroke-dasharray: 14 5; }
.s5 { stroke: var(--s5); stroke-dasharray: 4 3; }
.dot { fill: var(--card); stroke-width: 2.6; stroke-dasharray: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 4px 0 4px; padding: 0;
  font-size: .9rem; }
.key { width: 28px; height: 10px; margin-right: 7px; }
figure + figure, .scroll + figure { margin-top: 16px; }
.wide { margin-bottom: 16px; overflow-x: auto; }
.wide > svg { max-width: 860px; margin: 0 auto; }
.contents { columns: 2; margin: 18px 0 0; padding-left: 20px; }
.part { border-top: 2px solid var(--line); margin-top: 52px; padding-top: 4px; }
.part > h2 { font-size: 1.6rem; margin-top: 20px; }
.files { font-size: .9rem; color: var(--dim); }
details { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 10px 16px;
  margin-bottom: 10px; }
pre { overflow-x: auto; font-size: .85rem; }
.mix { display: flex; height: 7px; border-radius: 3px; overflow: hidden; margin: 1px 0 3px;
  background: var(--line); }
.mix i { display: block; height: 100%; }
.against { background-image: repeating-linear-gradient(45deg, transparent 0 2px, var(--card) 2px 4px); }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px 18px;
  margin-bottom: 16px; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px 10px;
  grid-template-columns: repeat(auto-fill, minmax(108px, 1fr)); }
li { min-width: 0; }
ol li { display: flex; flex-direction: column; font-size: .8rem; line-height: 1.3; border-radius: 10px;
  padding: 6px;
  border: 1px solid transparent; overflow-wrap: anywhere; }
ol b { font-weight: 600; margin: 5px 0 1px; }
.label { color: var(--dim); min-height: 1.3em; margin-bottom: 4px; font-variant-numeric: tabular-nums; }
.dim, time { color: var(--dim); }
img, .none { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border-radius: 8px;
  background: #f6f5f2; }
.none { display: grid; place-items: center; background: var(--ground); color: var(--dim);
  border: 1px dashed var(--line); }
.fresh { border-left: 2px solid var(--fresh); border-radius: 0 10px 10px 0; }
.fresh .label { color: var(--fresh); font-weight: 600; }
.hit { background: var(--good-fill); border-color: var(--good); }
.hit .label { color: var(--good); font-weight: 700; }
.answer { display: grid; grid-template-columns: minmax(130px, 1fr) 5fr; gap: 0 22px; margin-top: 14px;
  border-top: 1px solid var(--line); }
@media (max-width: 620px) {
  header, main { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 28px; }
  th, td { padding: 8px 9px; font-size: .9rem; }
  .bar { width: 56px; }
  .answer { grid-template-columns: 1fr; }
  .target ol { grid-template-columns: minmax(108px, 33%); }
  ol { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); } }
"""
