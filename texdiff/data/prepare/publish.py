"""A written dataset elsewhere: in object storage, or as a repository on the hub."""

import hashlib
from pathlib import Path

from texdiff import storage
from texdiff.data.mesh_index import MESHES
from texdiff.data.prepare.dataset_card import TAG
from texdiff.errors import InputError, one_line
from texdiff.storage.mirror import Mirror


class StoredOutput:
    """Where in storage a dataset is to be, and the folder here that it is prepared in, which stays. Raises InputError
    where something else is there, or the storage does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        digest = hashlib.sha256(self.address.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        place = storage.default_cache_dir() / "prepared" / digest
        self.folder = place / (self.address.rpartition("/")[2] or "dataset")
        self.mirror = Mirror(
            self.folder,
            self.address,
            ("metadata.jsonl", "README.md"),
            replaces=True,
            without=(MESHES,),
            notes=place / "sent.json",
        )
        there = storage.find(self.address)
        ours = self.mirror.is_writer or not there
        if not ours and {"README.md", "audit.jsonl"} <= there.keys():
            ours = f"- {TAG}\n" in storage.read(storage.join(self.address, "README.md")).decode("utf-8", "replace")
        if not ours:
            raise InputError(f"{address}: holds something else than a dataset written by texdiff; name another folder")
        storage.check_writable(self.address)

    def send(self) -> None:
        """Replace what is there with the folder. What describes the textures goes first and comes last, so that the
        dataset there is complete or none. Raises InputError; the next time the rest is sent."""
        try:
            self.mirror.begin()
            self.mirror.send()
        except InputError as error:
            said = f"{error}; the dataset is complete in {self.folder}, and the same command sends the rest"
            raise type(error)(said) from None


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a written dataset as a private dataset repository; returns its address.

    Raises InputError where the hub refuses or cannot be reached; the folder is not changed.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder, ignore_patterns=[MESHES])
    except Exception as error:  # network, rights, names: the library and what is below it raise all kinds
        reason = one_line(error)[:300]
        raise InputError(f"--push_to_hub {repository}: {reason}; the dataset itself is complete, in {folder}") from None
    return str(address)
