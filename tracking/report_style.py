"""The style sheet of the report: light and dark, no fonts or pictures from elsewhere."""

STYLE = """
:root{--fg:#1c2430;--dim:#5c6878;--bg:#fbfbfa;--card:#fff;--edge:#e2e5ea;--fill:#dbe8fb;--good:#17784a;--bad:#b3372f;
--c0:#0f8a8a;--c1:#b8660a;--c2:#2563c9;--c3:#a8328f;--c4:#c8322b;--c5:#6b6f76;--c6:#5b8c1f}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ee;--dim:#98a3b3;--bg:#14181e;--card:#1b2129;--edge:#2d3641;
--fill:#24405f;--good:#5bc98d;--bad:#f0857d;--c0:#4cc7c7;--c1:#f0a04b;--c2:#78a9ff;--c3:#e484cf;--c4:#ff8078;
--c5:#a4abb5;--c6:#a3d35f}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--fg);background:var(--bg);
max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:40px 0 8px}
header p{margin:4px 0;color:var(--dim)}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.note{color:var(--dim);font-size:13.5px;max-width:78ch;margin:4px 0 12px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(86px,1fr));gap:8px;margin-top:20px}
.cards div{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px 12px}
.cards b{display:block;font-size:21px;font-variant-numeric:tabular-nums;line-height:1.25}
.cards span{color:var(--dim);font-size:12.5px}
.scroll{overflow-x:auto;border:1px solid var(--edge);border-radius:8px;background:var(--card);margin:0 0 14px}
.long .scroll{max-height:620px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--edge)}
tr:last-child td{border-bottom:0}
th{color:var(--dim);font-weight:600;position:sticky;top:0;background:var(--card)}
th:first-child,td.name,td:first-child{text-align:left}
td.bar{background:linear-gradient(90deg,var(--fill) calc(var(--share)*100%),transparent 0) no-repeat}
i{display:inline-block;width:9px;height:9px;border-radius:50%;background:currentColor;margin-right:7px}
i.mark.switch{background:var(--bad)}i.mark.fragmentation{background:none;border:2px solid var(--c1)}
.s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}
.s5{color:var(--c5)}.s6{color:var(--c6)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13.5px;margin-bottom:10px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:12px}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(420px,1fr));gap:12px}
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px}
svg text{font-size:11.5px;fill:var(--dim);font-family:inherit}
svg .grid{stroke:var(--edge)}
svg .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
svg g circle{fill:currentColor}
.map .ego{fill:none;stroke:var(--dim);stroke-width:5;opacity:.35;stroke-linecap:round}
.map .held{fill:none;stroke:var(--c2);stroke-width:2.2;stroke-linecap:round}
.map .missed{fill:none;stroke:var(--dim);stroke-width:1.4;opacity:.45;stroke-linecap:round}
.map circle.held{fill:var(--c2)}.map circle.missed{fill:var(--dim)}
.map .mark.switch{fill:var(--bad)}
.map .mark.fragmentation{fill:none;stroke:var(--c1);stroke-width:2;pointer-events:all}
.map .bar{stroke:var(--dim);stroke-width:2}
figure{margin:0}figcaption{color:var(--dim);font-size:13.5px;padding:6px 2px}
em{font-style:normal;font-size:12px}em.better{color:var(--good)}em.worse{color:var(--bad)}
details{margin:6px 0;font-size:13.5px}summary{cursor:pointer}
"""
"""Colours `--c0` to `--c6` are those of the tracking classes in their order."""
