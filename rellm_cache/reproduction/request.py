"""What is to be reproduced. In: options. Out: a `Request`, and a folder claimed for it."""

from dataclasses import dataclass
from pathlib import Path

from rellm_cache.errors import ConfigError, RunError
from rellm_cache.reproduction.folds import Source
from rellm_cache.reproduction.paper import CONTROL, ROWS, Row
from rellm_cache.runs.weights import CONFIG
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.json_files import read_object

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Request:
    """What is to be reproduced, and how.

    Attributes:
        source: the corpus.
        out: folder of the reproduction.
        cache: root of the stores.
        base: recipe that the paper's rows are variants of.
        overrides: of every row's recipe.
        rows: names of the rows wanted; empty for all.
        folds: only the first so many; 0 for all. More can be added later.
        control: also train on labels dealt out anew.
        empathy: folder of an empathy scorer, or None to leave ER and EX out.
        blsp: folder of a BLSP-Emo checkpoint, from which all trained rows start; or a run that
            stands for BLSP-Emo in its own row alone; or None.
        first: recipe that each trained row is first trained as, without an LLM, and starts from;
            empty for none. The row is the same change of it.
        processes: models trained and asked at a time.
        batch_size: clips answered at a time.
        allow_partial: go on where the corpus has not as many clips as it should.
    """

    source: Source
    out: Path
    cache: Path
    base: str = "re-llm"
    overrides: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    folds: int = 0
    control: bool = False
    empathy: Path | None = None
    blsp: Path | None = None
    first: str = ""
    processes: int = 1
    batch_size: int = 8
    allow_partial: bool = False

    def __post_init__(self) -> None:
        if self.first and self.checkpoint is not None:
            raise ConfigError(
                "--first and --blsp: training starts from one or the other; leave one out"
            )

    @property
    def checkpoint(self) -> Path | None:
        """The BLSP-Emo checkpoint, if there is one."""
        return None if self.blsp is None or self.stand_in else self.blsp

    @property
    def stand_in(self) -> Path | None:
        """The run that stands for BLSP-Emo, if it is one."""
        return self.blsp if self.blsp is not None and (self.blsp / CONFIG).exists() else None

    @property
    def wanted(self) -> list[Row]:
        """Rows in the paper's order, the control last.

        Raises:
            ConfigError: a name that is no row.
        """
        known = [row.name for row in ROWS]
        for name in self.rows:
            if name not in known:
                raise ConfigError(f"row {name!r}: expected one of {', '.join(known)}")
        rows = [row for row in ROWS if not self.rows or row.name in self.rows]
        return [*rows, CONTROL] if self.control else rows


def claim(request: Request) -> None:
    """Note what a folder is a reproduction of; `RunError` where it is one of something else,
    or does not say of what."""
    source = request.source
    settings = {
        "corpus": source.corpus,
        "data": str(source.data.resolve()),
        "splits": source.splits,
        "cross_validate": source.cross_validate,
        "seed": source.seed,
        "base": request.base,
        "set": list(request.overrides),
        "first": request.first,
        "blsp": str(request.checkpoint.resolve()) if request.checkpoint else "",
    }
    path = request.out / SETTINGS
    if not path.exists():
        if request.out.exists() and any(request.out.iterdir()):
            raise RunError(f"{request.out}: is not empty and holds no reproduction; choose another")
        request.out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    found = read_object(
        path,
        RunError,
        "it says what is reproduced here: give the same command with another --out, stop it when "
        f"it has written its own {SETTINGS}, and copy that here",
    )
    differing = [
        f"{k}: wanted {v!r}, found {found.get(k)!r}"
        for k, v in settings.items()
        if found.get(k) != v
    ]
    if differing:
        raise RunError(
            f"{request.out}: holds a reproduction of something else ({'; '.join(differing)}); "
            "choose another --out"
        )
