"""`--captioner`: captions for textures that have none, by an image-to-text model of the user's choice."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from texdiff.data.prepare.build_stage import TextureEntry
from texdiff.data.prepare.workers import Workers, with_bar
from texdiff.errors import InputError, one_line
from texdiff.files import write_atomic
from texdiff.uv.gutter import fill
from texdiff.uv.image import write_png

_QUESTION = "Describe this object, its materials and its colours in one short phrase."  # for models that chat
_MAX_NEW_TOKENS = 40
_SIDE = 512  # pixels; more than such models look at, and a bound on the time to encode
_VIEWS = "views.png"  # in an entry's folder
_FRONT_AND_BACK = ((35.0, 20.0), (215.0, 20.0))


@dataclass(frozen=True)
class ViewJob:
    """Draw the mesh at `path` into the entry at `folder`."""

    path: Path
    folder: Path


def draw_views(job: ViewJob) -> None:
    """Do one ViewJob, in a worker: two views side by side. Raises InputError where the mesh has nothing to draw."""
    from texdiff.render.renderer import MeshRenderer

    write_png(np.hstack([*MeshRenderer(job.path, _FRONT_AND_BACK).draw()]), job.folder / _VIEWS)


class Captioner:
    """A model of transformers' image-text-to-text pipeline.

    It sees two views of the first mesh that uses the texture or, where there is no mesh or it cannot be drawn, the
    texture itself with its void filled from the islands.

    Raises InputError where `name` (a folder or a hub id) is no such model.
    """

    def __init__(self, name: str) -> None:
        import torch
        from transformers import pipeline

        self.name = name
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model: Any = pipeline("image-text-to-text", model=name, device=device)
        except Exception as error:  # the library raises all kinds for a name that it cannot load
            reason = one_line(error)[:300]
            raise InputError(
                f"--captioner {name}: cannot be loaded as an image-text-to-text model ({reason})"
            ) from None

    def draw_views(self, entries: list[TextureEntry], pool: Workers) -> None:
        """Draw the meshes of the entries that need a caption."""
        jobs = [
            ViewJob(entry.assets[0].path, entry.folder)
            for entry in entries
            if entry.needs_caption and entry.assets[0].mask is None and not (entry.folder / _VIEWS).is_file()
        ]
        for _ in with_bar("drawing", "meshes", len(jobs), pool.run(draw_views, jobs), len(jobs)):
            pass

    def caption(self, image: Image.Image) -> str:
        """The model's words for an image, in lower case and one line."""
        image.thumbnail((_SIDE, _SIDE))
        if getattr(self.model.processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": _QUESTION}]
            inputs: dict[str, Any] = {"text": [{"role": "user", "content": content}], "return_full_text": False}
        else:
            inputs = {"images": image, "text": ""}
        # Greedy, so that the same texture is called the same in every run.
        answer = self.model(**inputs, generate_kwargs={"max_new_tokens": _MAX_NEW_TOKENS, "do_sample": False})
        return " ".join(str(answer[0]["generated_text"]).split()).lower().rstrip(".")

    def caption_entries(self, entries: list[TextureEntry], work: Path) -> list[TextureEntry]:
        """Entries whose captions would only be a file's name get the model's; answers are kept in the work folder."""
        captioned = []
        for entry in tqdm(entries, desc="captioning", unit=" textures"):
            if entry.needs_caption:
                key = hashlib.sha256(f"{self.name} {entry.folder.name}".encode()).hexdigest()[:24]
                file = work / "captions" / f"{key}.txt"
                if not file.is_file():
                    write_atomic(file, self.caption(_image(entry.folder)).encode(), durable=False)
                entry = replace(entry, generated=file.read_text("utf-8") or None)
            captioned.append(entry)
        return captioned


def _image(folder: Path) -> Image.Image:
    """What to show of an entry: its views where they could be drawn, else its texture."""
    if (folder / _VIEWS).is_file():
        with Image.open(folder / _VIEWS) as image:
            return image.convert("RGB")
    with Image.open(folder / "texture.png") as texture, Image.open(folder / "mask.png") as mask:
        return Image.fromarray(fill(np.array(texture), np.array(mask) == 255))
