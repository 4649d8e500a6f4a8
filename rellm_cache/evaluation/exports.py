"""Exports of answers for the harnesses of VoiceBench and URO-Bench, or as plain JSON Lines.

<out>/voicebench.jsonl            a row for each clip: prompt, response
<out>/urobench/pred_text.jsonl    {"0000": answer}, {"0001": answer} …
<out>/urobench/question_text.jsonl, gt_text.jsonl    the same with the transcripts
<out>/answers.jsonl               a row for each clip: id, audio, text, emotion, response

VoiceBench's `main.py` writes each row of its data set without the audio but with `response`;
`api_judge.py` and `evaluate.py` read `prompt` and `response` (github.com/MatthewCYM/VoiceBench).
URO-Bench's `examples/example-test/inference_for_eval.py` writes the three files of numbered rows,
and takes the question for the true text where a data set has no `target_text`
(github.com/Ruiqi-Yan/URO-Bench). Its scores of spoken answers do not apply to text.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ManifestError
from rellm_cache.inference.responders import Generation
from rellm_cache.utils.atomic_files import write_lines

Format = Literal["voicebench", "urobench", "jsonl"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

Row = dict[str, Any]
Files = dict[str, list[Row]]  # path in the folder -> rows


def require_transcripts(kind: Format, utterances: Sequence[Utterance], manifest: Path) -> None:
    """Raise `ManifestError` if a harness needs a transcript that an utterance lacks."""
    missing = [u.id for u in utterances if not u.text.strip()]
    if missing and kind != "jsonl":
        raise ManifestError(
            f"{manifest}: {len(missing)} of {len(utterances)} utterances have no transcript "
            f"(text), the first is {missing[0]!r}, but {kind} judges answers beside it; add "
            "transcripts, or export jsonl"
        )


def write_answers(
    out: Path, kind: Format, utterances: Sequence[Utterance], answers: Sequence[Generation]
) -> list[Path]:
    """Write answers to the utterances, in their order, as a harness reads them.

    Returns:
        Paths of the files.
    """
    files = {out / name: rows for name, rows in _FILES[kind](utterances, answers).items()}
    for path, rows in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, rows)
    return list(files)


def _voicebench(utterances: Sequence[Utterance], answers: Sequence[Generation]) -> Files:
    pairs = zip(utterances, answers, strict=True)
    return {"voicebench.jsonl": [{"prompt": u.text, "response": a.response} for u, a in pairs]}


def _urobench(utterances: Sequence[Utterance], answers: Sequence[Generation]) -> Files:
    questions = [utterance.text for utterance in utterances]
    columns = {
        "pred_text": [answer.response for answer in answers],
        "question_text": questions,
        "gt_text": questions,
    }
    return {
        f"urobench/{name}.jsonl": [{f"{i:04d}": text} for i, text in enumerate(texts)]
        for name, texts in columns.items()
    }


def _json_lines(utterances: Sequence[Utterance], answers: Sequence[Generation]) -> Files:
    rows = [
        {
            "id": utterance.id,
            "audio": utterance.audio,
            "text": utterance.text,
            "emotion": utterance.emotion,
            "response": answer.response,
        }
        for utterance, answer in zip(utterances, answers, strict=True)
    ]
    return {"answers.jsonl": rows}


_FILES: Final[Mapping[str, Callable[[Sequence[Utterance], Sequence[Generation]], Files]]] = {
    "voicebench": _voicebench,
    "urobench": _urobench,
    "jsonl": _json_lines,
}
