"""Send an export to the hub, after looking at what would be sent."""

from __future__ import annotations

from pathlib import Path

from factedit.cache import settled
from factedit.errors import LINE, ResourceError, UnsafeFile, UsageError
from factedit.export.notes import RECORD
from factedit.files.checkpoint_checks import PICKLES
from factedit.stack.folder import is_stack


def push(folder: str | Path, repo: str, *, private: bool = True, message: str = "Upload edited model") -> str:
    """Send a folder that `ship` or `apply` wrote to a repository of the hub, making it where needed.

    Who is logged in ('hf auth login', or the variable HF_TOKEN) is the hub's own affair.

    Args:
        folder: the export.
        repo: `owner/name`.
        private: of a repository that is made new.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the folder is no export, or the repository is not written `owner/name`.
        UnsafeFile: a pickle, or a link that leaves the folder.
        ResourceError: the hub cannot be reached or refuses.
    """
    path = settled(Path(folder))
    if not (path / RECORD).is_file() and not is_stack(path):
        raise UsageError(f"{path} is not a folder that 'factedit ship' or 'factedit apply' wrote.")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError(f"The repository {repo!r} is not written owner/name.")
    for file in sorted(path.rglob("*")):
        if file.suffix in PICKLES:
            raise UnsafeFile(f"{file} is a pickle; it is not sent. Remove it.")
        if file.is_symlink():
            raise UnsafeFile(f"{file} is a link to {file.resolve()}; it is not sent. Put the file itself there.")
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(repo, private=private, exist_ok=True)
        sent = hub.upload_folder(repo_id=repo, folder_path=path, commit_message=message)
    except Exception as error:  # offline, refused, cut off: each layer of the network raises its own types
        said = " ".join(str(error).split())[:LINE] or type(error).__name__  # the hub gives its reason in a later line
        raise ResourceError(
            f"{path} could not be sent to {repo} ({said}). Check the connection and the login ('hf auth login')."
        ) from error
    return str(sent.commit_url)
