"""Sample images while training: from the same prompts and noise each time, on the same meshes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.data.layout_input import layout_input
from texdiff.data.mesh_index import find_mesh
from texdiff.data.record import Record, texels_of
from texdiff.diffusion.draws import keyed_generator
from texdiff.errors import InputError
from texdiff.files import atomic_folder, slug, write_atomic
from texdiff.models.inpainting import inpainting_inputs
from texdiff.models.layout_net import pipeline_inputs
from texdiff.render.void import void_on_surface
from texdiff.training.run import Run
from texdiff.training.run.metrics_log import MetricsLog
from texdiff.training.voids import void_colours
from texdiff.uv.gutter import fill
from texdiff.uv.hiding import Hiding, known_pixels
from texdiff.uv.image import read_image
from texdiff.uv.meshes.part import MeshUse

_LEFT, _GREY = 0.12, 96.0  # what the dimmed void keeps of its colour, beside this grey
_CANDIDATES = 4  # textures for each sample that is chosen
_VIEW = 256  # pixels, the side of one of four views of a mesh


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one sample is of, at every step. Paths are relative to the run's samples/ folder."""

    prompt: str
    file: str  # name of the atlas in each step-*/ folder; beside it are NAME-dimmed.png and NAME-mesh.png
    mask: str  # white where the texture is used that the atlas stands for
    mesh: str | None  # its triangles, where the dataset knows them


class SampleImages:
    """Draws RUN/samples/step-*/ of textures among `records`. Each sample takes mask, map and mesh of one of them, and
    its caption unless validation.prompts has others; an inpainting base is shown what `hiding` leaves of the texture.
    For the main process alone."""

    def __init__(
        self, config: TrainingConfig, log: MetricsLog, records: Sequence[Record], hiding: Hiding | None = None
    ) -> None:
        self.hiding = hiding
        self.config, self.log, self.run, self.records = config, log, log.run, records
        self.folder = self.run.samples_folder
        self.number = max(config.validation.num_images, len(config.validation.prompts))
        self.rows: list[Sample] = []
        self._records: list[Record] = []
        self._real_void: list[float] = []  # of each sample's own texture, once it is known
        self._masks: list[NDArray[np.bool_]] = []
        self._images: list[NDArray[np.uint8]] = []
        self._layouts: list[Tensor | None] = []
        self._meshes: list[MeshUse | None] = []

    def open(self) -> None:
        """Choose what the samples are of, and write samples.json with the masks and meshes that it names, once."""
        for number, (record, mesh) in enumerate(self._choose()):
            prompts = self.config.validation.prompts or record.captions[:1]
            prompt = prompts[number % len(prompts)]
            image, mask = record.model_input(self.config.data.resolution, "fill")
            name = f"{number:02d}"
            (self.folder / "meshes").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(self.folder / f"meshes/{name}.png")
            try:
                if mesh:
                    # Imports trimesh and scipy: a run whose dataset knows no meshes starts sooner without.
                    from texdiff.render.viewer_mesh import read_triangles, write_triangles

                    write_triangles(read_triangles(mesh), self.folder / f"meshes/{name}.npz")
            except InputError as error:
                print(f"sample {number}: without its mesh ({error})")
                mesh = None
            self._records.append(record)
            self._masks.append(mask)
            self._images.append(texels_of(image))
            self._layouts.append(layout_input(record, mask, self.config.layout.maps))
            self._meshes.append(mesh)
            file, triangles = f"{name}-{slug(prompt)}.png", f"meshes/{name}.npz" if mesh else None
            self.rows.append(Sample(prompt=prompt, file=file, mask=f"meshes/{name}.png", mesh=triangles))
        rows = json.dumps([asdict(row) for row in self.rows], ensure_ascii=False, indent=1)
        write_atomic(self.run.samples_file, rows.encode())

    def _choose(self) -> list[tuple[Record, MeshUse | None]]:
        """A texture and its mesh for each sample: of the first few those that cover most of their meshes, as on a mesh
        of many parts a texture can be hard to find; with different captions, as long as there are such. Every one of
        validation.prompts has its sample, whatever num_images says."""
        found = [(record, find_mesh(record.name)) for record in self.records[: _CANDIDATES * self.number]]
        found.sort(key=lambda pair: -pair[1].share if pair[1] else 0.0)
        distinct = list({pair[0].captions[0]: pair for pair in reversed(found)}.values())[::-1]
        return [distinct[i % len(distinct)] for i in range(self.number)]

    def draw(self, pipeline: Any, step: int) -> None:
        """Draw each atlas with the pipeline; write it as it is, with the void dimmed, and on its mesh from four sides.
        Trackers that take images get them too."""
        if not self.rows:
            self.open()
        with atomic_folder(self.run.sample_folder(step)) as folder:
            shown = self._draw_into(folder, pipeline)
        self.log.images(step, shown)

    def accompany(self, pipeline: Any) -> None:
        """The passes that `draw` makes, and nothing else: for a process whose part of the weights they need."""
        size, inputs = (self.config.data.resolution,) * 2, dict[str, Any]()
        if self.hiding is not None:
            inputs = inpainting_inputs(pipeline, np.zeros((*size, 3), np.float32), np.ones(size, bool))
        for number in range(self.number):
            self._sample(pipeline, number, "", output_type="latent", **inputs)

    def void(self, step: int) -> dict[str, float]:
        """Of the samples drawn after `step` steps: void_on_surface, the mean share of their covered texels that shows a
        common colour of the training textures' voids (`texdiff.render.void`), void_on_mesh, the same by the mesh's
        surface where the dataset knows it, and void_on_surface_real, the first of the textures they stand for. Nothing
        where the textures have no such colour."""
        colours = void_colours(self.run)
        if not colours:
            return {}
        if not self.rows:
            self.open()
        resolution = self.config.data.resolution
        if not self._real_void:
            pairs = zip(self._images, self._masks, strict=True)
            self._real_void = [void_on_surface(texels, mask, colours) for texels, mask in pairs]
        shares: dict[str, list[float]] = {"void_on_surface": [], "void_on_mesh": []}
        for row, record, mask in zip(self.rows, self._records, self._masks, strict=True):
            drawn = read_image(self.run.sample_folder(step) / row.file)
            shares["void_on_surface"].append(void_on_surface(drawn, mask, colours))
            if record.surface is not None:
                shares["void_on_mesh"].append(void_on_surface(drawn, mask, colours, record.density(resolution)))
        shares["void_on_surface_real"] = self._real_void
        return {name: float(np.mean(found)) for name, found in shares.items() if found}

    def _draw_into(self, folder: Path, pipeline: Any) -> dict[str, list[NDArray[np.uint8]]]:
        """The images that trackers get, of each kind one a sample."""
        shown: dict[str, list[NDArray[np.uint8]]] = {"atlas": [], "mesh": []}
        chosen = zip(self.rows, self._masks, self._images, self._layouts, self._meshes, strict=True)
        for number, (row, mask, texture, layout, mesh) in enumerate(chosen):
            inputs = pipeline_inputs(pipeline, layout)
            if self.hiding is not None:
                hidden = self.hiding.hidden(mask, variant=0)
                inputs = inpainting_inputs(pipeline, known_pixels(texture, mask, hidden), hidden)
            image = self._sample(pipeline, number, row.prompt, **inputs)
            image.save(folder / row.file)
            atlas = np.asarray(image)
            shown["atlas"].append(dim_void(atlas, mask))
            Image.fromarray(shown["atlas"][-1]).save(folder / beside(row.file, "dimmed"))
            if mesh:
                from texdiff.render.renderer import MeshRenderer

                views = MeshRenderer(mesh.path, size=_VIEW).draw(fill(atlas, mask), mesh.parts)
                shown["mesh"].append(np.vstack([np.hstack([*views[:2]]), np.hstack([*views[2:]])]))
                Image.fromarray(shown["mesh"][-1]).save(folder / beside(row.file, "mesh"))
        return shown

    def _sample(self, pipeline: Any, number: int, prompt: str, **inputs: Any) -> Any:
        return pipeline(
            prompt,
            height=self.config.data.resolution,
            width=self.config.data.resolution,
            num_inference_steps=self.config.validation.num_inference_steps,
            generator=keyed_generator(self.config.run.seed, "sample", number),
            **inputs,
        ).images[0]


def dim_void(atlas: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The atlas, uint8 [H, W, 3], nearly grey where `mask`, bool [H, W], is false: dark islands stand out as well."""
    return np.where(mask[..., None], atlas, (_LEFT * atlas + (1 - _LEFT) * _GREY).astype(np.uint8))


def beside(file: str, kind: str) -> str:
    """The name of the `dimmed` or `mesh` image beside an atlas."""
    return f"{Path(file).stem}-{kind}.png"


def read_samples(run: Run) -> list[Sample]:
    """What RUN's samples are of; nothing where it has none."""
    try:
        return [Sample(**row) for row in json.loads(run.samples_file.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
