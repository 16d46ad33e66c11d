"""`--captioner`: captions for textures that have none, by an image-to-text model of the user's choice."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from texdiff.data.prepare.views import VIEWS
from texdiff.data.prepare.write_stage import Entry
from texdiff.errors import InputError, one_line
from texdiff.files import write_atomic
from texdiff.uv.gutter import fill

_QUESTION = "Describe this object, its materials and its colours in one short phrase."  # for models that chat
_MAX_NEW_TOKENS = 40
_SIDE = 512  # pixels; more than such models look at, and a bound on the time to encode


class Captioner:
    """A model of transformers' image-text-to-text pipeline.

    It sees two views of the first mesh that wears the texture or, where there is no mesh, the texture itself with its
    void filled from the islands.

    Raises InputError where `name` (a folder or a hub id) is no such model.
    """

    def __init__(self, name: str) -> None:
        import torch
        from transformers import pipeline

        self.name = name
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model: Any = pipeline("image-text-to-text", model=name, device=device)
        except Exception as error:  # the library raises all kinds for a name that it can't load
            reason = one_line(str(error))[:300]
            raise InputError(f"--captioner {name}: can't be loaded as an image-text-to-text model ({reason})") from None

    def caption(self, picture: Image.Image) -> str:
        """The model's words for a picture, in lower case and one line."""
        picture.thumbnail((_SIDE, _SIDE))
        if getattr(self.model.processor, "chat_template", None):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": _QUESTION}]
            inputs: dict[str, Any] = {"text": [{"role": "user", "content": content}], "return_full_text": False}
        else:
            inputs = {"images": picture, "text": ""}
        # Greedy, so that the same texture is called the same in every run.
        answer = self.model(**inputs, generate_kwargs={"max_new_tokens": _MAX_NEW_TOKENS, "do_sample": False})
        return one_line(str(answer[0]["generated_text"])).lower().rstrip(".")

    def needs_caption(self, entry: Entry) -> bool:
        """Whether its captions would only be the names of files."""
        return all(asset.named for asset in entry.assets)

    def caption_entries(self, entries: list[Entry], work: Path) -> list[Entry]:
        """Entries whose captions would only be a file's name get the model's; answers are kept in the work folder."""
        captioned = []
        for entry in tqdm(entries, desc="captioning", unit=" textures"):
            if self.needs_caption(entry):
                key = hashlib.sha256(f"{self.name} {entry.folder.name}".encode()).hexdigest()[:24]
                file = work / "captions" / f"{key}.txt"
                if not file.is_file():
                    write_atomic(file, self.caption(_picture(entry.folder)).encode(), durable=False)
                entry = replace(entry, generated=file.read_text("utf-8") or None)
            captioned.append(entry)
        return captioned


def _picture(folder: Path) -> Image.Image:
    """What to show of an entry: its views where they could be drawn, else its texture."""
    if (folder / VIEWS).is_file():
        with Image.open(folder / VIEWS) as picture:
            return picture.convert("RGB")
    texture, mask = (_read(folder / f"{name}.png") for name in ("texture", "mask"))
    return Image.fromarray(fill(texture, mask == 255))


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)
