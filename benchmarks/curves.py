"""Curves as an SVG picture: a few lines over one axis of steps."""

from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 70, 190, 20, 50
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"]


def draw_curves(curves: dict[str, list[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """An SVG of `curves`, name -> points (x, y), with the range of all of them on its axes."""
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    x_scale = (WIDTH - LEFT - RIGHT) / ((x_high - x_low) or 1)
    y_scale = (HEIGHT - TOP - BOTTOM) / ((y_high - y_low) or 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) * x_scale, HEIGHT - BOTTOM - (y - y_low) * y_scale

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    for i in range(5):
        y = y_low + (y_high - y_low) * i / 4
        _, down = place(x_low, y)
        parts.append(f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down + 4:.1f}" font-size="12" text-anchor="end">{y:.4g}</text>')
    for x in sorted(set(xs)):
        across, _ = place(x, y_low)
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" font-size="12" text-anchor="middle">{x:g}</text>'
        )
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" font-size="13">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" font-size="13" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = TOP + 16 + 20 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 12} {height - 4}h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{height}" font-size="13">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
