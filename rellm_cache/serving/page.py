"""Web page to speak to served runs, made with Gradio: nothing of it leaves this machine.

Each run has a column with what it heard and its conversation; all runs get the same turns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import soundfile

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import SAMPLE_RATE
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import RellmError
from rellm_cache.evaluation.run import choose_samples
from rellm_cache.runs.card import MANIFEST, SCORES
from rellm_cache.serving.conversation import Conversation
from rellm_cache.serving.errors import RequestError, request_error
from rellm_cache.serving.figures import heard_html
from rellm_cache.serving.served_run import ServedRun, read_speech
from rellm_cache.serving.settings import ServeSettings
from rellm_cache.serving.worker import Emit, Worker
from rellm_cache.utils.console import say
from rellm_cache.utils.html import render_page
from rellm_cache.utils.json_files import load
from rellm_cache.utils.regular_files import read_regular

EXAMPLES = 6
KEPT_SECONDS = 3600  # uploads and conversations of a visitor who left
STYLE = Path(__file__).with_name("page.css")


class Page:
    """The page of served runs.

    Args:
        folder: for example clips and what visitors send.
    """

    def __init__(
        self, runs: Sequence[ServedRun], worker: Worker, settings: ServeSettings, folder: Path
    ) -> None:
        self._runs, self._worker, self._settings = list(runs), worker, settings
        self._examples = write_examples(runs, folder)

    def build(self) -> gr.Blocks:
        """The page's components and what their buttons do."""
        with gr.Blocks(
            analytics_enabled=False,
            title=self._title,
            fill_width=True,
            delete_cache=(60, KEPT_SECONDS),
        ) as blocks:
            gr.HTML(self._head(), padding=False)
            state = gr.State(self._new_state(), time_to_live=KEPT_SECONDS)
            audio = gr.Audio(
                label="Speak, or choose a sound file",
                sources=["microphone", "upload"],
                type="filepath",
                elem_id="speech",
                editable=True,
                buttons=[],
            )
            fetch_nothing(audio)
            text = gr.Textbox(
                label="Write instead, or ask about the speech",
                elem_id="text",
                lines=1,
                max_lines=4,
            )
            with gr.Row(elem_id="buttons"):
                send = gr.Button("Send", variant="primary", elem_id="send", min_width=80)
                stop = gr.Button("Stop", elem_id="stop", min_width=80)
                again = gr.Button("New conversation", elem_id="again", min_width=80)
            if self._examples:
                paths = [[str(path)] for path, _ in self._examples]
                labels = [label for _, label in self._examples]
                gr.Examples(
                    paths, [audio], label="Examples", example_labels=labels, elem_id="examples"
                )
            status = gr.HTML(elem_id="status", padding=False)
            columns: list[Any] = []
            with gr.Row(elem_id="runs"):
                for run in self._runs:
                    with gr.Column(min_width=320, elem_classes="run"):
                        gr.HTML(self._run_head(run), padding=False)
                        columns.append(gr.HTML(padding=False))
                        columns.append(gr.HTML(padding=False))
            shown = [state, status, *columns]
            gr.on(blocks.load, self._show, state, [status, *columns], api_visibility="private")
            gr.on(  # what the alert said of the sound before
                audio.change,
                lambda path: gr.skip() if path is None else "",
                audio,
                status,
                api_visibility="private",
                show_progress="hidden",
            )
            sending = gr.on(
                [send.click, text.submit],
                self._send,
                [audio, text, state],
                [*shown, audio, text],
                api_visibility="private",
                concurrency_limit=None,
                show_progress="hidden",
            )
            stop.click(None, cancels=[sending], api_visibility="private")
            again.click(
                self._start_again,
                None,
                [*shown, audio, text],
                cancels=[sending],
                api_visibility="private",
            )
        blocks.queue(default_concurrency_limit=None)
        # Only after its own launch does Gradio check that a file was sent to the page; without it a
        # request could name any file of this machine.
        blocks.has_launched = True
        return blocks

    @property
    def _title(self) -> str:
        return f"{' and '.join(run.name for run in self._runs)} · rellm"

    def _head(self) -> str:
        return render_page("serving/head.html.j2", names=[run.name for run in self._runs])

    def _run_head(self, run: ServedRun) -> str:
        llm = Path(run.recipe.llm.model).name if run.recipe.llm and run.answers else ""
        return render_page("serving/run_head.html.j2", name=run.name, recipe=run.recipe, llm=llm)

    def _new_state(self) -> list[Conversation]:
        return [Conversation() for _ in self._runs]

    def _show(self, state: list[Conversation]) -> list[str]:
        return ["", *self._columns(state)]

    def _start_again(self) -> list[Any]:
        state = self._new_state()
        return [state, "", *self._columns(state), None, ""]

    def _columns(self, state: Sequence[Conversation]) -> list[str]:
        """What was heard and the conversation, of each run in turn, as HTML."""
        columns = []
        for run, conversation in zip(self._runs, state, strict=True):
            hint = (
                "Speak, then press Send."
                if run.answers
                else "This run has no LLM: it tells the emotion, and does not answer."
            )
            columns.append(heard_html(conversation.heard))
            columns.append(
                render_page(
                    "serving/conversation.html.j2",
                    messages=conversation.messages,
                    name=run.name,
                    hint=hint,
                )
            )
        return columns

    def _send(self, audio: str | None, text: str, state: list[Conversation]) -> Iterator[list[Any]]:
        """Hear and answer a turn; yields the page whenever something changed."""
        try:
            yield from self._answer(audio, text.strip(), state)
        except Exception as error:  # of any kind: the page tells it
            message = render_page("serving/alert.html.j2", message=str(request_error(error)))
            yield [state, message, *self._columns(state), gr.skip(), gr.skip()]

    def _answer(
        self, audio: str | None, text: str, state: list[Conversation]
    ) -> Iterator[list[Any]]:
        if audio is None and not text:
            raise RequestError("Record or choose a clip first, or write something.")
        data = None if audio is None else read_regular(Path(audio))
        name = "" if audio is None else Path(audio).name

        def work(emit: Emit) -> None:
            clip = None if data is None else read_speech(data, name, self._settings.limits)
            for run, conversation in zip(self._runs, state, strict=True):
                conversation.say(run, clip, text, emit)

        job = self._worker.start(work)
        waiting = render_page("serving/alert.html.j2", message="")
        yield [state, waiting, *self._columns(state), gr.skip(), gr.skip()]
        try:
            for _ in job:
                yield [state, waiting, *self._columns(state), gr.skip(), gr.skip()]
        finally:
            job.close()
        yield [state, "", *self._columns(state), None, ""]


def fetch_nothing(audio: gr.Audio) -> None:
    """Make a component refuse addresses of other servers, which Gradio would download."""
    take_file = audio.async_move_resource_to_block_cache

    async def take(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("An address of another server; choose a file.")
        found: str | None = await take_file(path)
        return found

    audio.async_move_resource_to_block_cache = take


def write_examples(runs: Sequence[ServedRun], folder: Path) -> list[tuple[Path, str]]:
    """Clips of the manifest that a run was scored on, as WAV files, with their labels.

    There are none where no run has scores, or where the clips are not on this machine any more.
    """
    for run in runs:
        if not (run.path / SCORES).is_file():
            continue
        found: list[tuple[Path, str]] = []
        try:
            manifest = load(run.path / SCORES)[MANIFEST]
            for utterance in choose_samples(read_manifests(Path(manifest)), EXAMPLES):
                waveform = load_clip(utterance).waveform
                path = folder / f"example-{len(found) + 1}.wav"
                soundfile.write(path, waveform, SAMPLE_RATE, subtype="FLOAT")
                parts = (utterance.speaker, utterance.emotion, utterance.text)
                found.append((path, ": ".join(filter(None, parts)) or utterance.id))
        except (RellmError, OSError, ValueError, KeyError, TypeError) as error:
            say(f"{run.path}: no example clips ({error})")
            continue
        return found
    return []
