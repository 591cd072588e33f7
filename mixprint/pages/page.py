"""Pieces of a self-contained HTML page: nothing is loaded from anywhere, every text is escaped.

Shape suffixes: C channel, T sample.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import soundfile as sf
from torch import Tensor

from mixprint.audio.levels import peak_db
from mixprint.audio.resampling import resample
from mixprint.storage.atomic import atomic_path

# Okabe and Ito: told apart by people with any of the common colour vision deficiencies.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
FADE_S = 0.02

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
body { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.scroll { overflow-x: auto; }
.scroll img { max-width: max(100%, 36rem); }
table { border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { position: sticky; left: 0; background: Canvas; }
td, th { overflow-wrap: normal; }
td.number, th.number { text-align: right; }
td small { display: block; white-space: nowrap; opacity: .75; }
img, svg { max-width: 100%; height: auto; background: #fff; }
audio { width: 100%; max-width: 24rem; height: 2.4rem; }
.players { display: grid; gap: .7rem; }
.players { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.players figure { margin: 0; } figcaption { font-size: .9rem; overflow-wrap: anywhere; }
.good::before { content: "\\2713  "; } .bad::before { content: "\\2717  "; }
.note { border-left: 4px solid #E69F00; padding-left: .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def write_page(
    path: Path, title: str, sections: Iterable[str], *, style: str = "", script: str = ""
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        title: plain text.
        sections: HTML made by the functions of this module.
        style: more CSS.
        script: JavaScript that runs when the page is there.
    """
    code = f"<script>\n{script}</script>\n" if script else ""
    text = (
        f"{_beginning(title)}<style>{_STYLE}{style}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + f"\n{code}</body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_page(path: Path, title: str) -> bool:
    """Tell whether a file is such a page with this title, by how it begins."""
    expected = _beginning(title).encode()
    try:
        with path.open("rb") as file:
            return file.read(len(expected)) == expected
    except OSError:
        return False


def _beginning(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon: a browser would ask a server for favicon.ico otherwise.
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>"
    )


def heading(text: str, level: int = 2) -> str:
    """Make a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, *, note: bool = False) -> str:
    """Make a paragraph; a note stands out."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


@dataclass(frozen=True)
class Interval:
    """A number in a table, with its interval below it."""

    value: float
    low: float
    high: float


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table that scrolls sideways on a narrow screen; numbers are set to the right."""
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _cell(cell: object) -> str:
    if isinstance(cell, Interval):
        ends = f"<small>{cell.low:.3g} to {cell.high:.3g}</small>"
        return f'<td class="number">{cell.value:.3g}{ends}</td>'
    if isinstance(cell, float):
        return f'<td class="number">{cell:.3g}</td>'
    return f"<td>{escape(str(cell))}</td>"


def folded(summary: str, content: str) -> str:
    """Hide content until its summary is tapped.

    Args:
        summary: plain text.
        content: HTML made by the functions of this module.
    """
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def definitions(values: Mapping[str, object]) -> str:
    """Make a list of names and values."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
    return f"<dl>{items}</dl>"


def bullets(texts: Iterable[str]) -> str:
    """Make a list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def links(targets: Mapping[str, str]) -> str:
    """Make a paragraph of links: text -> URL."""
    made = (f'<a href="{escape(url)}">{escape(text)}</a>' for text, url in targets.items())
    return f"<p>{' · '.join(made)}</p>"


def image(picture: Path | bytes, description: str) -> str:
    """Embed a PNG; a narrow screen scrolls it sideways, for its text would become too small.

    Args:
        picture: the file, or what it would hold.
        description: plain text, for who does not see it.
    """
    content = picture.read_bytes() if isinstance(picture, Path) else picture
    data = base64.b64encode(content).decode("ascii")
    tag = f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'
    return f'<div class="scroll">{tag}</div>'


def player(
    caption: str,
    audio_CT: Tensor,
    sample_rate_hz: int,
    *,
    max_duration_s: float,
    player_rate_hz: int,
    css_class: str = "",
) -> str:
    """Embed an excerpt as 16-bit FLAC, which every current browser plays.

    One that exceeds full scale is lowered, and its caption says so.

    Args:
        caption: plain text below the player.
        audio_CT: audio; its first `max_duration_s` are used, with short fades at both ends.
        sample_rate_hz: its rate.
        max_duration_s: longest excerpt.
        player_rate_hz: rate in the page; a lower one makes it smaller and duller.
        css_class: `good` or `bad` puts a mark before the caption.
    """
    excerpt_CT = faded(audio_CT[:, : round(max_duration_s * sample_rate_hz)], sample_rate_hz)
    excerpt_CT = resample(excerpt_CT, sample_rate_hz, player_rate_hz)
    if (peak := float(excerpt_CT.abs().max())) > 1:
        excerpt_CT = excerpt_CT / peak
        caption += f" (played {peak_db(peak):.1f} dB lower)"
    buffer = io.BytesIO()
    sf.write(buffer, excerpt_CT.T.numpy(), player_rate_hz, format="FLAC", subtype="PCM_16")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'
        f'<figcaption class="{escape(css_class)}">{escape(caption)}</figcaption></figure>'
    )


def faded(audio_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Fade a copy of an excerpt in and out over `FADE_S`, so that its ends do not click."""
    faded_CT = audio_CT.clone()
    fade_samples = min(round(FADE_S * sample_rate_hz), audio_CT.shape[-1] // 2)
    if fade_samples:
        ramp_T = (audio_CT.new_ones(fade_samples).cumsum(0) - 1) / fade_samples
        faded_CT[:, :fade_samples] *= ramp_T
        faded_CT[:, -fade_samples:] *= ramp_T.flip(0)
    return faded_CT


def script_json(value: object) -> str:
    """Put values into a page, for its script to read; no text in them can end the element.

    Raises:
        ValueError: the values hold NaN or an infinity.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def players(figures: Iterable[str]) -> str:
    """Set players side by side, or below each other where the screen is narrow."""
    return f'<div class="players">{"".join(figures)}</div>'


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str
) -> str:
    """Draw lines from zero upwards as SVG.

    Args:
        series: label -> points, not negative; empty series are left out.
        x_label: what the horizontal axis counts.
        y_label: what the vertical axis measures.
    """
    drawn = {label: points for label, points in series.items() if points}
    highest_x = max((x for points in drawn.values() for x, _ in points), default=0) or 1
    highest_y = max((y for points in drawn.values() for _, y in points), default=0) or 1
    left, top, width, height = 60, 20, 540, 180
    lines = []
    for index, (label, points) in enumerate(drawn.items()):
        colour = PALETTE[index % len(PALETTE)]
        path = " ".join(
            f"{left + width * x / highest_x:.1f},{top + height * (1 - y / highest_y):.1f}"
            for x, y in points
        )
        dash = ' stroke-dasharray="7 4"' if index % 2 else ""
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2.5"{dash} points="{path}"/>'
            f'<text x="{left + width - 6}" y="{top + 16 * (index + 1)}" text-anchor="end" '
            f'fill="{colour}">{escape(label)}</text>'
        )
    bottom = top + height
    return (
        f'<svg viewBox="0 0 640 250" role="img" aria-label="{escape(y_label)}" '
        'font-family="system-ui, sans-serif" font-size="13">'
        f'<path d="M{left} {top}V{bottom}H{left + width}" fill="none" stroke="#555"/>'
        f'<text x="{left - 6}" y="{top + 5}" text-anchor="end">{highest_y:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{bottom + 18}">0</text>'
        f'<text x="{left + width}" y="{bottom + 18}" text-anchor="end">{highest_x:g}</text>'
        f'<text x="{left + width / 2}" y="{bottom + 36}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text x="{left}" y="{top - 6}">{escape(y_label)}</text>' + "".join(lines) + "</svg>"
    )
