"""A written dataset as a repository on the hub."""

from pathlib import Path

from texdiff.data.mesh_index import MESHES
from texdiff.errors import InputError, one_line


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
