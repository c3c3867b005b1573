"""The panels and the sentences of lab/modes.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remask.lab.experiment import Line, Panel

if TYPE_CHECKING:
    from remask.lab.modes import Modes

Row = dict[str, Any]


def _of(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _line(rows: list[Row], name: str, x: str, y: str, theory: bool = False) -> Line:
    error = [row[f"{y}_stderr"] for row in rows] if f"{y}_stderr" in rows[0] else None
    return Line(name, [float(row[x]) for row in rows], [float(row[y]) for row in rows], error, theory)


def panels(rows: list[Row], asked: Modes) -> list[Panel]:
    """Each measurement with its closed form."""
    noise, length, masked = (_of(rows, kind) for kind in ("noise", "length", "masked"))
    outputs, some = _of(rows, "output"), {row["noise"] for row in _of(rows, "output")}
    lines = []
    for name in sorted(some):
        mine = [row for row in outputs if row["noise"] == name]
        lines += [_line(mine, f"{way}, noise of {name}", "contamination", key) for way, key in WAYS]
    lines.append(_line(outputs[: len(outputs) // len(some)], "e", "contamination", "sampled_bad_theory", True))
    share = f"{asked.contamination:g}"
    return [
        Panel(
            "Where the mode turns bad",
            "bits of the noise",
            "share e of bad texts",
            [
                _line(noise, "mode switches, enumerated", "noise_bits", "switch"),
                _line(noise, "max P / (max P + max N)", "noise_bits", "threshold", True),
            ],
            log_y=True,
        ),
        Panel("Bad answers: drawn, and the mode", "share e of bad texts", "share of bad answers", lines, log_x=True),
        Panel(
            f"Empty modes at e = {share}",
            "words of the input",
            "share of the inputs",
            [
                _line(length, "enumerated", "length", "empty_modes"),
                _line(length, "binomial tail", "length", "empty_modes_theory", True),
            ],
        ),
        Panel(
            f"A masked model at e = {share}",
            "length",
            "nats",
            [
                _line(masked, "log p(mode | length)", "length", "log_prob"),
                _line(masked, "log p(length)", "length", "length_log_prob"),
                _line(masked, "both together", "length", "together"),
                _line(masked, "closed form", "length", "log_prob_theory", True),
            ],
        ),
    ]


WAYS = (("drawn", "sampled_bad"), ("mode", "mode_bad"))


def says(rows: list[Row], asked: Modes) -> list[str]:
    """What it means."""
    noise, length, masked, choice = (_of(rows, kind) for kind in ("noise", "length", "masked", "choice"))
    here = next(row for row in _of(rows, "threshold") if row["contamination"] == asked.contamination)
    mode = f"'{here['mode']}'" if here["mode"] else "the empty text"
    texts = len(asked.good.whole.nonzero())
    apart = max(abs(row["switch"] / row["threshold"] - 1) for row in [*noise, *choice])
    together = max(masked, key=lambda row: row["together"])
    lengths = {row["choice"]: row for row in choice}
    first, last = noise[0], noise[-1]
    return [
        f"{texts} good texts of {asked.entropy:.2f} bits, none above p = {asked.best:.5f}: with "
        f"{asked.contamination:g} of empty ones beside them the mode is {mode} (threshold {first['threshold']:.5f}), "
        "and no model is at fault.",
        f"The mode switches where max P / (max P + max N) says, within {apart:.1g}: at e = {first['switch']:.5f} under "
        f"noise of one text, at {last['switch']:.3f} under noise of {last['texts']}.",
        "Drawing is wrong in e of the cases whatever the noise is; the mode is never wrong below the threshold, and "
        "always above it. So high likelihood and low quality do not speak against likelihood.",
        f"Of inputs of {length[0]['length']} words {100 * length[0]['empty_modes']:.0f} % have an empty mode, of "
        f"{length[-1]['length']} words {100 * length[-1]['empty_modes']:.0f} %: good answers of "
        f"{length[-1]['bits']:.1f} bits share what one bad answer has for itself.",
        "A masked model that is asked at a length above 0 has no empty mode. Choosing the length with the text "
        f"brings it back from e = {lengths['length and text']['switch']:.5f} on (here it chooses "
        f"{together['length']}); by the length's own probability only from {lengths['length alone']['switch']:.3f} on.",
    ]
