"""The folder of a run: its lock, its configuration and the list of its starts."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from continual_ep.atomic_files import write_json, write_text
from continual_ep.citations import citation, used_by
from continual_ep.errors import ConfigurationError, warn_user
from continual_ep.experiments.config import RunConfig, config_from, read_yaml
from continual_ep.options import plain_values

LOCK = ".lock"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
CITATIONS = "citations.bib"

#: Seconds to wait for the lock.
PATIENCE = 1.0


@contextmanager
def opened_folder(config: RunConfig) -> Iterator[Path]:
    """Lock the run's folder for this process and write its configuration.

    The kernel releases the lock with the process, so a lock file left by a killed run does not matter.

    :raises ConfigurationError: when the folder cannot be written, is in use, holds other files or
        belongs to another configuration. Nothing in it is changed then.
    """
    folder = config.folder()
    check_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the output folder {folder}: {error.strerror}; choose another --out"
        ) from None
    with lock:
        _take(lock, folder)
        check_folder(config)  # again: another process may have been first
        if not (folder / CONFIG).exists():
            write_text(folder / CONFIG, config.to_yaml())
        if not (folder / CITATIONS).exists():
            used = used_by(plain_values(config))
            write_text(folder / CITATIONS, citation(*used))
        yield folder


def check_folder(config: RunConfig) -> None:
    """:raises ConfigurationError: when the folder is not free for this configuration."""
    folder = config.folder()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; choose a folder for --out")
    if (folder / CONFIG).exists():
        _check_same(config, folder)
        return
    # A run that was killed before it wrote its configuration leaves only these.
    strangers = [name for name in os.listdir(folder) if name not in (LOCK, CONFIG + ".tmp")]
    if strangers:
        raise ConfigurationError(
            f"the folder {folder} holds files that belong to no run (such as {min(strangers)!r}); "
            "nothing was changed. Choose another --out, or an empty folder"
        )


def _check_same(config: RunConfig, folder: Path) -> None:
    values = read_yaml(folder / CONFIG)
    if not values:  # a written one has every key; an empty one would mean the demo
        raise ConfigurationError(
            f"{folder / CONFIG} is empty, so the folder belongs to no run; nothing was changed. Choose "
            "another --out, or an empty folder"
        )
    try:
        recorded = config_from(values, str(folder / CONFIG)).identity()
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the folder {folder} belongs to another version of continual-ep: {error}\nNothing was "
            "changed. Choose another --out"
        ) from None
    current = config.identity()
    keys = sorted(
        key for key in recorded.keys() | current.keys() if recorded.get(key) != current.get(key)
    )
    if keys:
        lines = "\n".join(
            f"  {key}: {json.dumps(recorded.get(key))} there, {json.dumps(current.get(key))} now"
            for key in keys
        )
        raise ConfigurationError(
            f"the folder {folder} belongs to another configuration:\n{lines}\n"
            "Nothing was changed. Choose another --out, or give the options of the run there"
        )


def _take(lock: Any, folder: Path) -> None:
    # The workers of a run that was just killed hold its lock until they have ended.
    deadline = time.monotonic() + PATIENCE
    while not _locked(lock):
        if time.monotonic() > deadline:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise ConfigurationError(
                f"the folder {folder} is in use by {owner}. Wait until it has ended, stop it, or "
                "choose another --out"
            )
        time.sleep(0.05)
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {platform.node()}\n")
    lock.flush()


def _locked(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: better to run unlocked than not at all
    return True


def note_environment(folder: Path, started: dict[str, Any]) -> None:
    """Add this start to the list of starts in ``environment.json``.

    A file that cannot be read is renamed, with a warning.
    """
    path = folder / ENVIRONMENT
    starts: Any = []
    if path.exists():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            starts = None
    if not isinstance(starts, list):
        aside = _free_name(path)
        path.rename(aside)
        warn_user(f"{path} is no list of starts; it is kept as {aside.name}, and a new one begun")
        starts = []
    write_json(path, [*starts, started])


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in count(1))
    return next(name for name in names if not name.exists())
