"""The look of a report: one column, system fonts, one accent, light and dark and paper.

Colours are variables, so that charts and films follow the page. Every text colour stands at 4.5:1 or more on every
surface it is set on (WCAG AA; a test computes it).
"""

from __future__ import annotations

LIGHT = {
    "paper": "#f7f8fa",
    "card": "#ffffff",
    "ink": "#1a1f29",
    "soft": "#59616f",
    "line": "#dfe3e9",
    "brick": "#d5dae2",
    "raw": "#c3d3ec",
    "accent": "#1d5bb8",
    "tint": "#e8effa",
    "good": "#176437",
    "good-tint": "#e0f2e6",
}
DARK = {
    "paper": "#111419",
    "card": "#191d24",
    "ink": "#e4e7ec",
    "soft": "#9fa8b6",
    "line": "#2d333d",
    "brick": "#39414d",
    "raw": "#35486a",
    "accent": "#8db6ff",
    "tint": "#1f2b41",
    "good": "#84d9a4",
    "good-tint": "#18321f",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


CSS = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}"
    '--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif;'
    '--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}\n'
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    """
*,::before,::after{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:400 1rem/1.6 var(--sans);text-rendering:optimizeLegibility}
header,main,footer{max-width:60rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:4.5rem}
h1{margin:0 0 .75rem;max-width:22ch;font-size:clamp(1.85rem,1.4rem + 2.2vw,2.75rem);line-height:1.15;font-weight:680;
letter-spacing:-.022em;text-wrap:balance}
.lead{max-width:38rem;margin:0;font-size:1.125rem;line-height:1.6;color:var(--soft);text-wrap:pretty}
.sign{display:flex;gap:4px;margin:0 0 1.75rem}
.sign i{width:1.5rem;height:.55rem;border-radius:3px;background:var(--brick)}
.sign i:nth-child(2){width:2.5rem}.sign i:nth-child(3){width:1rem;background:var(--accent)}
.sign i:nth-child(5){width:2rem}
nav{margin:2.25rem 0 0;font-size:.9375rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:0;padding:0;list-style:none}
a{color:var(--accent);text-decoration-thickness:1px;text-underline-offset:.22em}
nav a{display:inline-block;padding:.3rem 0;text-decoration:none}nav a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:3px}
section{margin:3.5rem 0 0;padding:2.25rem 0 0;border-top:1px solid var(--line)}
h2{margin:0 0 .5rem;font-size:1.375rem;line-height:1.3;font-weight:650;letter-spacing:-.012em;text-wrap:balance}
section>.text{max-width:40rem;margin:0 0 1.5rem;color:var(--soft);text-wrap:pretty;white-space:pre-line}
figure{margin:0}
figure+.fall{margin-top:2.5rem}
section>*+figure:not(.fall),section>*+.table,section>*+.cards,section>*+.fills,h2+.recipe,h2+.table{margin-top:1.5rem}
figcaption,.note{max-width:40rem;margin:.75rem 0 0;font-size:.875rem;line-height:1.55;color:var(--soft);
white-space:pre-line}
.fall figcaption{margin:0 0 .6rem;font-size:.9375rem;color:var(--ink)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,10.5rem),1fr));gap:1.75rem 2rem;
margin:2.5rem 0 0}
.facts div{padding:0 0 0 1rem;border-left:2px solid var(--line)}.facts div:first-child{border-color:var(--accent)}
.facts dt{font-size:.8125rem;color:var(--soft)}
.facts dd{margin:0;font-size:1.375rem;line-height:1.35;font-weight:600;letter-spacing:-.015em;
font-variant-numeric:tabular-nums}
.facts dd+dd{font-size:.8125rem;font-weight:400;letter-spacing:0;line-height:1.5;color:var(--soft)}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem 2rem}
.panels svg{display:block;width:100%;max-width:36rem;height:auto;overflow:visible}
.chart text{font-variant-numeric:tabular-nums}
.one .panels{display:block;max-width:36rem}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9375rem;line-height:1.45;font-variant-numeric:tabular-nums}
caption{padding:0 0 .6rem;text-align:left;font-weight:600}
th,td{padding:.55rem 1.25rem .55rem 0;text-align:left;vertical-align:baseline;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
thead th{font-size:.8125rem;font-weight:500;color:var(--soft);vertical-align:bottom;border-bottom-color:var(--soft)}
tbody th{font-weight:500}
td:not(.num){min-width:8rem}.num+:not(.num){padding-left:1rem}
.num{text-align:right}td.num,th[scope=row].num{white-space:nowrap}.se{color:var(--soft)}
.cards{display:grid;gap:1.25rem}
.card,.fills li{border:1px solid var(--line);border-radius:10px;background:var(--card)}
.card{padding:1.1rem 1.25rem 1rem}
.card figcaption{margin:.9rem 0 0;padding:.7rem 0 0;border-top:1px solid var(--line);font-size:.8125rem}
@media (min-width:50rem){.card{display:grid;grid-template-columns:1fr 13rem;gap:1.5rem}
.card .mono:only-child{grid-column:1/-1}
.card figcaption{margin:0;padding:.1rem 0 0 1.25rem;border-top:0;border-left:1px solid var(--line)}}
.mono{font:400 .875rem/1.7 var(--mono);white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}
.fills ol{display:grid;gap:.9rem;margin:0;padding:0;list-style:none}
.fills li{padding:1.15rem 1.25rem .9rem;line-height:2.35;white-space:pre-wrap;overflow-wrap:anywhere}
mark{padding:.12em .3em;border-radius:4px;color:var(--accent);background:var(--tint);font-weight:500;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
mark.yes{color:var(--good);background:var(--good-tint)}
ruby{ruby-align:center}rt{font-size:.72em;line-height:1.2;color:var(--soft);font-style:italic;user-select:none}
.key{display:flex;flex-wrap:wrap;gap:.4rem 1.5rem}
.recipe{display:grid;gap:1.5rem}
.recipe pre{margin:0;padding:1rem 1.25rem;border:1px solid var(--line);border-radius:10px;background:var(--card);
font:400 .875rem/1.7 var(--mono);white-space:pre-wrap;overflow-wrap:anywhere}
.recipe code{font:inherit;user-select:all}
.list{display:grid;grid-template-columns:max-content 1fr;gap:.4rem 2rem;margin:0;font-size:.9375rem;
font-variant-numeric:tabular-nums}
.list dt{color:var(--soft)}.list dd{margin:0;overflow-wrap:anywhere}
footer{margin-top:4rem;padding-top:1.5rem;padding-bottom:4rem;font-size:.8125rem;color:var(--soft)}
footer dl{display:flex;flex-wrap:wrap;gap:.3rem 1.75rem;margin:0;padding-top:1.5rem;border-top:1px solid var(--line)}
footer div{display:flex;gap:.5rem}
footer dd{margin:0;color:var(--ink);overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
@media (max-width:30rem){header,main,footer{padding-left:1.1rem;padding-right:1.1rem}header{padding-top:2.5rem}
section{margin-top:2.5rem;padding-top:1.75rem}.list{grid-template-columns:1fr;gap:0}.list dd{margin:0 0 .7rem}
.facts{grid-template-columns:1fr 1fr;gap:1.25rem 1rem}.facts dd{font-size:1.25rem}th,td{padding-right:.9rem}}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
@media print{:root{--paper:#fff}body{font-size:10.5pt}header{padding-top:0}nav{display:none}
footer{margin-top:1.5rem;padding-bottom:0}
section{margin-top:1.5rem;padding-top:1.25rem}h2,caption,thead{break-after:avoid}
.panels{grid-template-columns:1fr 1fr}.facts{grid-template-columns:repeat(4,1fr)}section>.text{break-after:avoid}
figure.chart,.fall,.card,.fills li,tr,.recipe{break-inside:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
)
