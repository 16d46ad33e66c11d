"""The metrics of an evaluation as text for a terminal."""

from typing import Any


def table(metrics: dict[str, Any]) -> str:
    """Rows of `evaluation.json` with a column each for base and run, and what to keep in mind."""
    rows: list[tuple[str, ...]] = [("inside the mask", "VAE alone", "base", "trained")]
    kinds = metrics["reconstruction"]
    for key, name in (("psnr", "PSNR, dB"), ("ssim", "SSIM"), ("perceptual_distance", "perceptual distance")):
        rows.append((f"reconstruction: {name}", *(f"{kinds[who][key]:.3f}" for who in ("vae", "base", "trained"))))
    for kind in ("atlases", "renders"):
        if metrics[kind]:
            found = metrics[kind]
            base, trained, change = (
                f"{one['kid']:.3f} ({one['kid_low']:.3f} to {one['kid_high']:.3f})"
                for one in (found["base"], found["trained"], found["difference"])
            )
            rows.append((f"{kind}: KID (95 % interval)", "", base, trained))
            rows.append((f"{kind}: KID, trained less base", "", "", change))
            rows.append((f"{kind}: FID", "", *(f"{found[who]['fid']:.2f}" for who in ("base", "trained"))))
    void = metrics.get("void_on_surface")  # evaluations of before had none
    if metrics["seams"] or void:
        rows.append(("", "own", "base", "trained"))
    if metrics["seams"]:
        for key, name in (
            ("mean", "mean ΔE₀₀"),
            ("relative_mean", "mean, relative"),
            ("relative_p95", "95th percentile, relative"),
        ):
            values = [metrics["seams"][who][key] for who in ("own", "base", "trained")]
            rows.append((f"seams: {name}", *("-" if value is None else f"{value:.2f}" for value in values)))
    if void:
        for key, name in (("texels", "share of texels"), ("mesh", "share of the mesh")):
            values = [void[who][key] for who in ("own", "base", "trained")]
            rows.append(
                (f"void on the surface: {name}", *("-" if value is None else f"{value:.1%}" for value in values))
            )
    if metrics["prompt_agreement"]:
        for kind, both in metrics["prompt_agreement"].items():
            if both:
                rows.append((f"CLIP score: {kind}", "", *(f"{both[who]:.4f}" for who in ("base", "trained"))))
    if gain := metrics.get("layout_gain"):
        words = f"{gain['gain']:.4f} ({gain['low']:.4f} to {gain['high']:.4f})"
        rows.append(("layout gain (95 % interval)", "", "", words))
        best = max(gain["by_timestep"], key=lambda one: one["gain"])
        words = f"{best['gain']:.4f} ({best['low']:.4f} to {best['high']:.4f})"
        rows.append((f"layout gain at timestep {best['timestep']}, its largest", "", "", words))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]).rstrip() for row in rows
    ]
    said = f"{metrics['held_out']} held-out textures reconstructed; {metrics['num_images']} new ones against "
    said += f"{metrics['references']}; features: {metrics['features']}. Larger is better for PSNR, SSIM and CLIP score,"
    said += " smaller for the rest; seams are invisible at 1 relative to edges inside islands."
    if metrics.get("layout_gain"):
        said += " Layout gain is the held-out error with another mesh's map less that with its own."
    return "\n".join([*lines, "", said, *(f"Note: {note}." for note in metrics["notes"])])
