"""What a run says and shows before its first step: a summary, its masks at latent size, an image of the batch."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.cache.files import readable
from texdiff.data.cache.keys import key_of_lists
from texdiff.data.cache.store import ArrayStore, cache_place
from texdiff.data.caption_length import describe_empty, find_long_captions
from texdiff.data.columns import Column
from texdiff.data.mask_weights import MUCH_GREY, THRESHOLD, MaskKind
from texdiff.data.mixture import Mixture, paths_of
from texdiff.data.record import Record, texels_of
from texdiff.data.records import mean_coverage, read_sources
from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.models.family import Family, load_family
from texdiff.models.inpainting import describe_hiding
from texdiff.models.trainable import describe_training
from texdiff.training.batching import BatchPlan
from texdiff.training.optimizer import check_installed
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.voids import measure_voids, void_warning
from texdiff.uv.hiding import Hiding
from texdiff.uv.inverted import many_inverted

GAP, SHOWN = 8, 8  # pixels between the images of the first batch; textures shown of it, at most
WORST = 10  # textures that masks.json names


class Sizes(NamedTuple):
    """What a run is made of."""

    textures: int
    held_out: int
    coverage: float  # mean share of a texture that is covered, 0-1
    effective_batch: int  # samples of one optimiser step


def read_splits(config: TrainingConfig, parallel: Parallel) -> tuple[Sequence[Record], Sequence[Record]]:
    """The textures to train on, and those held out; with data.unreadable `skip` those that can be read.

    Raises InputError where there are none held out, and a setting needs them; and where ranks see other textures.
    """
    data, skip = config.data, config.data.unreadable == "skip"
    layout_column = data.layout_column if config.layout.maps == "position" else None
    columns = (data.image_column, data.mask_column, data.caption_column, layout_column)
    by_surface = config.mask.weight == "surface"
    splits = [
        read_sources(data.sources, split, columns, needs_surface=by_surface, missing_ok=skip)
        for split in ("train", "validation")
    ]
    if skip:
        # On a disk each rank reads a share for all that see it; what is kept in memory each must find out for itself.
        on_disk = data.cache == "disk"
        folder = cache_place(data.cache_dir, "readable")
        keep_readable = partial(
            readable,
            store=ArrayStore(folder if on_disk else None, {"dataset": paths_of(data.sources)}),
            resolution=data.resolution,
            mine=parallel.share_of(folder) if on_disk else slice(None),
            wait=parallel.wait,
            say=parallel.is_main,
        )
        splits = [keep_readable(split) for split in splits]
    if parallel.world > 1:  # known before hours of encoding
        seen = (Column[object](split, name) for split in splits for name in ("source", "captions", "repeats"))
        parallel.agree(key_of_lists(*seen).hex(), "data.dataset: the textures")
    wanted = {"keep_best true": config.run.keep_best, "early_stopping_patience": config.run.early_stopping_patience}
    for key in [key for key, value in wanted.items() if value and not splits[1]]:
        raise InputError(
            f"run.{key}: {paths_of(data.sources)} holds out no textures to compare losses on; "
            "make it with texdiff prepare --validation_fraction 0.05, or leave the key out"
        )
    return splits[0], splits[1]


def load_base(config: TrainingConfig) -> Family:
    """The base that the run starts from."""
    base = config.model
    hiding = {key: value for key, value in asdict(config.inpaint).items() if value is not None}
    return load_family(
        base.pretrained_model_name_or_path,
        base.revision,
        base.variant,
        config.noise.rescale_betas_zero_snr,
        config.data.max_token_length,
        base.clip_skip,
        base.prediction_type,
        base.vae,
        Hiding(**hiding) if hiding else None,
    )


def print_summary(
    config: TrainingConfig,
    run: Run,
    family: Family,
    plan: BatchPlan,
    parallel: Parallel,
    records: Sequence[Record],
    held_out: Sequence[Record],
) -> Sizes:
    """Print, once, what is about to happen, and return what the run is made of.

    Raises InputError for adapters that the base has no layers for, for a layout net that does not fit it, and for an
    optimizer that is not installed."""

    parallel.check(config)

    def describe() -> str:
        check_installed(config.optim.name)
        said, layout = describe_training(family, config.model.train, config.lora), config.layout
        if layout.init is None:
            return said
        family.check_layout_net(layout)
        return f"{said}; {'from' if config.model.train == 'controlnet' else 'under'} the layout net {layout.init}"

    trained = parallel.decide(describe)
    sizes = Sizes(len(records), len(held_out), mean_coverage(records), plan.effective_batch)
    if not parallel.is_main:
        return sizes
    samples = sizes.effective_batch * config.run.max_train_steps
    begin = f"continues from {run.resume_from}" if run.resume_from else "starts new"
    micro_batches = f"{plan.micro_batch_size} a micro-batch x {plan.accumulation_steps} micro-batches"
    outside = f"latent cells outside weigh {config.mask.outside_weight:g}"
    if config.mask.outside == "base_model":
        outside += ", with the base model's prediction as their target"
    processes = f"{parallel}, mixed precision {parallel.mixed_precision}"
    if parallel.device.type == "cpu":
        processes += _threads(-(-parallel.world // parallel.machines))
    print(config.to_yaml())
    print(f"textures         {sizes.textures} to train on, {sizes.held_out} held out")
    named = chain.from_iterable(
        zip(Column[str](split, "name"), Column[tuple[str, ...]](split, "captions"), strict=True)
        for split in (records, held_out)
    )
    if long := find_long_captions(named, family.count_tokens, family.max_tokens):
        print(f"captions         warning: {long}")
    if empty := describe_empty(Column[tuple[str, ...]](records, "captions")):
        print(f"captions         warning: {empty}")
    for line in family.left_out(config.validation.prompts):
        print(f"captions         warning: validation.prompts: {line}")
    print(f"mean coverage    {sizes.coverage:.1%} of a texture; {outside}")
    print(f"trained          {trained}")
    if family.hiding is not None:
        print(f"inpainting       {describe_hiding(family.hiding)}")
    print(f"processes        {processes}")
    print(f"effective batch  {sizes.effective_batch} = {micro_batches} x {parallel.world} processes")
    for line in Mixture(records, config.data.sources).describe(samples):
        print(f"source           {line}")
    epochs = samples / sizes.textures
    print(f"length           {config.run.max_train_steps} steps = {samples} samples = {epochs:.1f} epochs")
    if config.data.source_resolution is not None:
        scales = ", ".join(f"{scale:g}" for scale in config.data.scales)
        side, most = config.data.resolution, config.data.source_resolution
        print(f"windows          {side} px of atlases of up to {most} px, at {scales} times their size")
    place = f"{run.storage.address}, worked on in {run.folder}" if run.storage else run.folder
    print(f"run folder       {place} ({begin})", flush=True)
    return sizes


def _threads(processes: int) -> str:
    """How many of a CPU's cores are used, and what would use all: accelerate's launcher asks for one."""
    threads, share = torch.get_num_threads(), (os.cpu_count() or 1) // processes
    more = f" of {share} cores each; OMP_NUM_THREADS={share} before the command uses all" if threads < share else ""
    return f", {threads} thread{'s' if threads > 1 else ''}{more}"


@dataclass(frozen=True, kw_only=True)
class MaskReport:
    """Shares are 0-1."""

    dropped: float
    """Of the covered texels, those in latent cells that do not count."""
    void: float
    """Of what the latent cells count, what lies on texels that are not covered."""
    worst: tuple[tuple[str, float], ...]
    """Textures that lose most, by name, each with its dropped share."""
    compared: int
    """Textures with enough inside the mask and outside to be compared."""
    inverted: int
    """Of these, the ones that vary more outside the mask than inside."""
    warning: str | None
    """One line where that says that the masks are inverted."""


def measure_masks(textures: LatentDataset) -> MaskReport:
    """Measure the masks by all textures' sums, which the cache keeps."""
    first = slice(None, None, textures.scales)  # of each texture's views
    sums = {name: values[first].double() for name, values in textures.sums.items()}
    covered, dropped = sums["covered"], sums["dropped"]
    share = dropped / covered
    most = share.argsort(descending=True, stable=True)[:WORST].tolist()
    variation = textures.variation[first].double()  # [n, 2]
    compared = int(variation.isfinite().all(dim=1).sum())
    inverted = int((variation[:, 1] > variation[:, 0]).sum())
    warning = (
        f"warning: the masks look inverted: {inverted} of {compared} textures vary more outside the mask than inside; "
        "white must be where the UV map uses the texture"
    )
    return MaskReport(
        dropped=float(dropped.sum() / covered.sum()),
        void=float(sums["void"].sum() / sums["target"].sum()),
        worst=tuple((textures.records[i].name, float(share[i])) for i in most if share[i] > 0),
        compared=compared,
        inverted=inverted,
        warning=warning if many_inverted(inverted, compared) else None,
    )


def describe_grey(kinds: NDArray[np.uint8]) -> str:
    """How many masks are grey, and what becomes of that; nothing where none is."""
    counts = {kind: int((kinds == kind).sum()) for kind in MaskKind}
    parts = []
    if weights := counts[MaskKind.WEIGHTS]:
        parts.append(
            f"{weights} of {len(kinds)} are used as weights: more than {MUCH_GREY:.0%} of each is grey, rims aside"
        )
    if cut := counts[MaskKind.CUT]:
        parts.append(f"{cut} of {len(kinds)} with less are black and white, cut at {THRESHOLD}")
    return "; ".join(parts)


def report_masks(textures: LatentDataset, config: TrainingConfig, run: Run, parallel: Parallel) -> None:
    """Print what the masks lose on the way to latent size, whether they look inverted, and what void the textures have;
    write RUN/masks.json."""
    if not parallel.is_main:
        return
    report, setting = measure_masks(textures), config.mask
    grown = f" and dilation {setting.dilation}" if setting.dilation else ""
    worst = "; worst {}: {:.1%}".format(*report.worst[0]) if report.worst else ""
    print(
        f"latent masks     {setting.downsample}{grown} drop {report.dropped:.1%} of the covered texels{worst}; "
        f"{report.void:.1%} of what counts is void"
    )
    if textures.has_windows:
        shown = textures.coverage(range(len(textures.sums["covered"])))
        print(f"windows          {shown:.1%} of one counts, on average")
    if grey := describe_grey(textures.kinds):
        print(f"grey masks       {grey}")
    voids = measure_voids(textures.records, config.data.background)
    print(f"void             {voids}")
    for warning in (report.warning, void_warning(voids, config)):
        if warning:
            print(warning, flush=True)
    about = asdict(report) | {"voids": asdict(voids)}
    write_atomic(run.masks_file, json.dumps(about, indent=1, ensure_ascii=False).encode())


def draw_first_batch(textures: LatentDataset, plan: BatchPlan, config: TrainingConfig, run: Run) -> None:
    """Write RUN/first_batch.png, one row a texture: the texture as the VAE gets it, or the window of it, its mask, and
    the texture under its latent mask, where texels that do not count are red, and blue where the base model's own
    prediction is asked for. The masks are those that training reads, from the cache."""
    if plan.rank > 0 or run.resume_from:  # where it is there already
        return
    rows = []
    resolution = config.data.resolution
    for key in textures.mixture.keys(config.run.seed, 0, plan.effective_batch)[:SHOWN]:
        record, seen = textures.records[key[1]], textures.seen(config.run.seed, [key])
        size, _, top, left, *_ = (resolution, 0, 0, 0) if seen.sizes is None else seen.sizes[0].tolist()
        image, weights = record.fit(*record.read_weighted(), size, config.data.background)
        texture, weights = (part[top:, left:][:resolution, :resolution] for part in (texels_of(image), weights))
        side = resolution // seen.mask.shape[2]
        # Weights by surface, or of cells that are shown less often, go beyond 1.
        planes = (part[0, 0].clip(0, 1).numpy() for part in (seen.mask, seen.outside))
        target, outside = (np.kron(plane, np.ones((side, side)))[..., None] for plane in planes)
        if config.mask.outside == "nothing":
            target, outside = target + outside, 0 * outside
        blue, red = (0.25 * texture + np.array(colour) for colour in ((0, 0, 120), (120, 0, 0)))
        counted = texture * target + blue * outside + red * (1 - target - outside)
        white = np.repeat(weights[..., None], 3, axis=2)
        gap = np.full((resolution, GAP, 3), 255, np.uint8)
        rows.append(np.hstack([texture, gap, white, gap, counted.round().clip(0, 255).astype(np.uint8)]))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.vstack(rows[:-1])).save(file, "PNG")
    write_atomic(run.first_batch_file, file.getvalue())
