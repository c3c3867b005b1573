"""The masks falling: how a text appeared, step by step, as a small film in HTML.

    0  . . . .  the prompt stands; every other cell is a grey block as wide as the token it hides
    k  the cells that fell at step k flash in the accent colour, then are text

A fragment carries its own style and script, uses no ids, and may stand many times on one page. The hidden tokens are
laid out from the start and only painted over, so nothing moves while masks fall. Without JavaScript, and on paper, the
final text stands there. It plays only while it is in view, and not by itself where the reader asked for less motion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from remask.core.errors import BadInput
from remask.report.markup import escape, split_space

STYLE = """
.fall{--f-ink:var(--ink,#1a1f29);--f-soft:var(--soft,#59616f);--f-card:var(--card,#fff);--f-line:var(--line,#dfe3e9);
--f-brick:var(--brick,#d5dae2);--f-accent:var(--accent,#1d5bb8);margin:0;color:var(--f-ink)}
@media screen and (prefers-color-scheme:dark){.fall{--f-ink:var(--ink,#e4e7ec);--f-soft:var(--soft,#9fa8b6);
--f-card:var(--card,#191d24);--f-line:var(--line,#2d333d);--f-brick:var(--brick,#39414d);--f-accent:var(--accent,#8db6ff)}}
.fall figcaption{margin:0 0 .5rem;font-weight:600}
.fall .film{border:1px solid var(--f-line);border-radius:10px;background:var(--f-card);overflow:hidden}
.fall .text{padding:1.1rem 1.25rem;font:400 .875rem/1.85 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",
monospace;white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}
.fall .p{text-decoration:underline;text-decoration-color:var(--f-soft);text-decoration-thickness:1px;
text-underline-offset:.3em}
.fall .c{border-radius:3px;-webkit-box-decoration-break:clone;box-decoration-break:clone}
.fall .n::before{content:"\\21b5";color:transparent}.fall .e::before{content:"\\2009"}
@media screen{.fall .c.m,.fall .n.m::before{color:transparent;background:var(--f-brick)}
.fall .c.m{box-shadow:inset 1px 0 var(--f-card),inset -1px 0 var(--f-card);user-select:none}
.fall .c.now{color:var(--f-accent)}}
.fall .bar{display:flex;align-items:center;gap:.9rem;padding:.5rem 1.25rem .5rem .75rem;
border-top:1px solid var(--f-line)}
.fall .bar[hidden]{display:none}
.fall button{flex:none;width:2.5rem;height:2.5rem;border:0;border-radius:50%;background:none;color:var(--f-accent);
cursor:pointer;display:grid;place-items:center}
.fall button:hover{background:color-mix(in srgb,var(--f-accent) 12%,transparent)}
.fall button:focus-visible,.fall input:focus-visible{outline:2px solid var(--f-accent);outline-offset:2px}
.fall svg{width:1rem;height:1rem;fill:currentColor}.fall .on .go,.fall button:not(.on) .halt{display:none}
.fall input{flex:1;min-width:4rem;height:1.5rem;margin:0;accent-color:var(--f-accent);cursor:pointer}
.fall output{flex:none;min-width:10.5em;text-align:right;font-size:.8125rem;color:var(--f-soft);
font-variant-numeric:tabular-nums}
.fall output i{font-style:normal}
@media (max-width:30rem){.fall output{min-width:6em}.fall output i{display:none}.fall .text{padding:1rem}}
@media (prefers-reduced-motion:no-preference){.fall .c.new{animation:fall-flash .8s ease-out}
@keyframes fall-flash{0%,15%{background:var(--f-accent);color:var(--f-card)}}}
@media print{.fall .bar{display:none}}
"""

SCRIPT = """
(()=>{const root=document.currentScript.parentNode,find=s=>root.querySelector(s);
const order=JSON.parse(find('script').textContent).order.filter(k=>k>0),cells=[...root.querySelectorAll('.c')];
const end=order.reduce((a,b)=>Math.max(a,b),0),bar=find('.bar'),button=find('button'),slider=find('input');
const steps=find('output b'),rest=find('output i'),calm=matchMedia('(prefers-reduced-motion: reduce)').matches;
const pace=Math.min(420,Math.max(60,7000/end));
let at=end,on=false,seen=false,timer=0;
const draw=k=>{at=k;let left=0;cells.forEach((cell,i)=>{const list=cell.classList,masked=order[i]>k;
if(masked){left++;list.remove('new')}else if(list.contains('m'))list.add('new');
list.toggle('m',masked);list.toggle('now',order[i]===k&&k<end)});
slider.value=k;slider.setAttribute('aria-valuetext','step '+k+' of '+end+', '+left+' masked');
steps.textContent=k+' / '+end;rest.textContent=' \\u00b7 '+left+' masked'};
const wait=()=>{clearTimeout(timer);if(on&&seen)timer=setTimeout(()=>{draw(at<end?at+1:0);wait()},
at>=end?2800:at?pace:900)};
const play=yes=>{on=yes;button.classList.toggle('on',yes);button.setAttribute('aria-label',yes?'Pause':'Play');wait()};
button.onclick=()=>{if(!on&&at>=end)draw(0);play(!on)};
slider.oninput=()=>{play(false);draw(+slider.value)};
bar.hidden=false;draw(end);
if(!calm){draw(0);play(true)}
new IntersectionObserver(all=>{seen=all[all.length-1].isIntersecting;wait()},{threshold:.2}).observe(bar)})();
"""

CONTROLS = (
    '<div class="bar" hidden><button type="button" aria-label="Play">'
    '<svg class="go" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2l10 6-10 6z"></path></svg>'
    '<svg class="halt" viewBox="0 0 16 16" aria-hidden="true"><path d="M3 2h4v12H3zM9 2h4v12H9z"></path></svg></button>'
    '<input type="range" min="0" max="{end}" value="{end}" step="1" aria-label="Step">'
    "<output>step <b>{end} / {end}</b><i></i></output></div>\n"
)


def falling(pieces: Sequence[str], order: Sequence[int], title: str = "", note: str = "") -> str:
    """An HTML fragment that replays how `pieces` were revealed.

    `pieces` are the final pieces of text, one per cell. `order` says when each cell fell: 0 for cells given from the
    start, k for cells revealed at step k. `title` stands above, `note` below. Lengths that differ and
    negative steps are `BadInput`. The fragment's JSON block gives `pieces` and `order` back exactly.
    """
    order = [int(step) for step in order]
    if len(pieces) != len(order):
        raise BadInput(f"{len(pieces)} pieces but {len(order)} steps: falling() wants one step per piece.")
    if min(order, default=0) < 0:
        raise BadInput(
            f"a cell falls at step {min(order)}: steps are 1, 2, 3, ... and 0 for cells given from the start."
        )
    end = max(order, default=0)
    data = json.dumps({"pieces": list(pieces), "order": order}, separators=(",", ":"))
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")  # nothing in the text can close the script element
    caption = f"<figcaption>{escape(title)}</figcaption>\n" if title else ""
    return (
        f'<figure class="fall">\n<style>{STYLE}</style>\n{caption}'
        f'<div class="film"><div class="text" dir="auto">{_cells(pieces, order)}</div>\n'
        f"{CONTROLS.format(end=end) if end else ''}</div>\n"
        + (f'<p class="note">{escape(note)}</p>\n' if note else "")
        + f'<script type="application/json">{data}</script>\n'
        + (f"<script>{SCRIPT}</script>\n" if end else "")
        + "</figure>\n"
    )


def _cells(pieces: Sequence[str], order: Sequence[int]) -> str:
    """The final text: prompts in runs, and one element per cell that was once masked, in the order of the text."""
    parts: list[str] = []
    for given, run in groupby(zip(pieces, order, strict=True), key=lambda cell: cell[1] == 0):
        if given:
            parts.append(f'<span class="p">{escape("".join(piece for piece, _ in run))}</span>')
        else:
            parts += [_cell(piece) for piece, _ in run]
    return "".join(parts)


def _cell(piece: str) -> str:
    """One cell that falls; its leading space stays outside the block, an empty piece or a newline gets width."""
    space, core = split_space(piece)
    kind = " e" if not core else " n" if not core.strip() and "\n" in core else ""
    return f'{space}<span class="c{kind}">{escape(core)}</span>'
