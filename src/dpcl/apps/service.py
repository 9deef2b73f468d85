"""The service as a FastAPI application: jobs, their files, a stream, health, metrics, the page."""

import asyncio
import json
import secrets
import tempfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from fastapi.staticfiles import StaticFiles
from starlette.background import BackgroundTask
from starlette.websockets import WebSocketDisconnect

import dpcl
from dpcl.apps.jobs import Job, Jobs
from dpcl.apps.security import SameOrigin, SecurityHeaders
from dpcl.apps.uploads import Voices, check_length, receive, removed_on_failure, safe_name
from dpcl.apps.worker import Order, sentence_for_clients
from dpcl.catalogue import find_file, shipped_models
from dpcl.errors import FLOOR_DB, InputError, check_floor, check_sources, need_package

# Annotations here are evaluated, because FastAPI reads those of nested functions.
PAGE = Path(__file__).parent / "page"  # files of the page
TEMPLATES = Path(__file__).parent / "templates"
VISIT = "dpcl_visit"  # cookie of a visit to the page
LEFT = 2.0  # s without a connection after which a visit has ended
TICK = 0.2  # s between two reports of progress
RETRY = 300  # ms after which a browser connects again: less than LEFT
VOICES = 10  # largest number of stored voices, for each place in the queue


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        megabytes: largest recording.
        seconds: longest recording.
        streams: largest number of streams at once.
    """

    megabytes: float = 500.0
    seconds: float = 3600.0
    streams: int = 4


def make_app(
    jobs: Jobs,
    limits: Limits | None = None,
    keys: tuple[str, ...] = (),
    page: bool = False,
    local: bool = False,
) -> FastAPI:
    """Return the application.

    Args:
        jobs: the queue; the application closes it at its end.
        limits: limits of recordings and streams.
        keys: API keys; with any, a request needs `Authorization: Bearer KEY`. The page needs none.
        page: serve the page too; its visits see their own jobs only.
        local: without keys, accept requests to the names of this computer only.
    """
    limits = limits or Limits()
    visits: dict[str, int] = {}  # open connections by visit
    voices = Voices(jobs.root, VOICES * jobs.waiting, jobs.keep)
    streams = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(jobs.close)

    app = FastAPI(
        title="dpcl",
        version=dpcl.__version__,
        description="Separates recordings of overlapping talkers.",
        docs_url=None,  # their pages load programs from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )

    if not keys:  # a foreign page has no key
        app.add_middleware(SameOrigin, local=local)
    app.add_middleware(SecurityHeaders)

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": sentence_for_clients(str(error))}, 422)

    def owner(request: Request) -> str:
        """Return the key or the visit of a request."""
        visit = request.cookies.get(VISIT, "")
        if page and visit in visits:
            return visit
        if not keys:
            return ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not any(
            secrets.compare_digest(given.encode(), key.encode()) for key in keys
        ):
            raise HTTPException(
                401,
                "the API key is missing or wrong; send `Authorization: Bearer KEY`",
                {"WWW-Authenticate": "Bearer"},
            )
        return f"key {given}"

    Owner = Annotated[str, Depends(owner)]

    def known(name: str, owner: Owner) -> Job:
        """Return the job of a path, or answer 404."""
        job = jobs.find(name, owner)
        if job is None:
            raise HTTPException(
                404, f"job {name}: does not exist here; create one with POST /v1/jobs"
            )
        return job

    Known = Annotated[Job, Depends(known)]

    def document(job: Job) -> dict[str, Any]:
        """Return the description of a job."""
        found: dict[str, Any] = {"id": job.id, "name": job.order.name, "state": job.state}
        found |= {"share": round(job.share, 3), "position": jobs.position(job)}
        if job.state == "failed":
            found["error"] = job.error
        if job.state == "done":
            found |= {**job.result, "zip": f"v1/jobs/{job.id}/zip"}
            for kind in ("files", "documents"):
                names = job.result[kind]
                found[kind] = {name: f"v1/jobs/{job.id}/files/{name}" for name in names}
        return found

    @app.post("/v1/jobs", status_code=202)
    async def create(
        request: Request,
        owner: Owner,
        name: Annotated[str, Query(description="Name of the recording.")] = "recording.wav",
        sources: Annotated[int | None, Query(description="Number of sources, 1 to 10.")] = None,
        model: Annotated[str, Query(description="A shipped model.")] = "default",
        spatial: Annotated[bool, Query(description="Use differences between channels.")] = True,
        floor: Annotated[float, Query(description="Level of inactive talkers, dB.")] = FLOOR_DB,
        voice: Annotated[list[str] | None, Query(description="Id of a known voice.")] = None,
        only: Annotated[str | None, Query(description="Name of the only voice to write.")] = None,
    ) -> dict[str, Any]:
        """Send a recording as the body of the request, and queue its separation."""
        check_sources(sources)
        check_floor(floor)
        names = [model.name for model in shipped_models()]
        if model not in names:
            raise InputError(f"unknown model {model!r}; give one of: {', '.join(names)}")
        name = safe_name(name)
        check_length(request, name, limits.megabytes)
        try:
            job = jobs.new(owner, Order(name, sources, model, limits.seconds, spatial, floor))
        except InputError as error:
            raise HTTPException(503, str(error), {"Retry-After": "60"}) from error
        with removed_on_failure(job.folder):
            lent = voices.lend(voice or (), owner, job.folder)
            if only is not None and only not in dict(lent):
                raise InputError(f"only {only}: is no voice of this job; add voice=ID")
            job.order = replace(job.order, voices=lent, only=only)
            await receive(request, job.recording, limits.megabytes)
        jobs.submit(job)
        return document(job)

    @app.get("/v1/jobs/{name}")
    def state(job: Known) -> dict[str, Any]:
        """Return the state of a job: its position, share of the work, files or error."""
        return document(job)

    @app.get("/v1/jobs/{name}/events")
    async def events(job: Known) -> StreamingResponse:
        """Stream the state of a job as server-sent events, until it is over."""

        async def changes() -> AsyncIterator[str]:
            before = None
            while True:
                now = document(job)
                if now != before:
                    yield f"data: {json.dumps(now)}\n\n"
                if job.over:
                    return
                before = now
                await asyncio.sleep(TICK)

        return StreamingResponse(changes(), media_type="text/event-stream")

    def finished(job: Known) -> Job:
        """Return a job that is done, or answer 409."""
        if job.state != "done":
            raise HTTPException(409, f"job {job.id}: is {job.state}, not done; ask for its state")
        return job

    Done = Annotated[Job, Depends(finished)]

    @app.get("/v1/jobs/{name}/files/{file}")
    def fetch(job: Done, file: str) -> FileResponse:
        """Return an output."""
        if file not in [*job.result["files"], *job.result["documents"]]:
            raise HTTPException(404, f"{file}: job {job.id} has no such file; ask for its state")
        return FileResponse(job.outputs / file, filename=file)

    @app.get("/v1/jobs/{name}/files/{file}/spectrogram")
    def spectrogram(job: Done, file: str) -> Response:
        """Return the spectrogram of an output as PNG."""
        if file not in job.result["files"]:
            raise HTTPException(404, f"{file}: job {job.id} has no such file; ask for its state")
        from dpcl.separators.presentation import draw_spectrogram
        from dpcl.signal.audio import read_audio

        need_package("show", "pictures need", "matplotlib")
        samples, rate = read_audio(job.outputs / file)
        return Response(draw_spectrogram(np.atleast_2d(samples), rate), media_type="image/png")

    @app.get("/v1/jobs/{name}/zip")
    def archive(job: Done) -> FileResponse:
        """Return all outputs in one ZIP file."""
        file = tempfile.NamedTemporaryFile(dir=job.folder, suffix=".zip", delete=False)  # noqa: SIM115
        with file, zipfile.ZipFile(file, "w") as packed:  # audio hardly shrinks: stored
            for name in [*job.result["files"], *job.result["documents"]]:
                packed.write(job.outputs / name, name)
        path = Path(file.name)
        stem = Path(job.order.name).stem
        remove = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, filename=f"{stem}.zip", background=remove)

    @app.delete("/v1/jobs/{name}", status_code=204)
    async def cancel(job: Known) -> None:
        """Stop the work at once, and remove the recording and its outputs."""
        await asyncio.to_thread(jobs.cancel, job)

    @app.post("/v1/voices", status_code=201)
    async def create_voice(
        request: Request,
        owner: Owner,
        name: Annotated[str, Query(description="Name of the talker.")],
        file: Annotated[str, Query(description="Name of the recording.")] = "voice.wav",
    ) -> dict[str, str]:
        """Send a recording of one talker alone; jobs then find this voice by its id."""
        check_length(request, safe_name(file), limits.megabytes)
        voice = voices.new(owner, name, file)
        with removed_on_failure(voice.path.parent):
            await receive(request, voice.path, limits.megabytes)
        voices.add(voice)
        return {"id": voice.id, "name": voice.name}

    @app.delete("/v1/voices/{key}", status_code=204)
    def remove_voice(key: str, owner: Owner) -> None:
        """Remove a known voice."""
        voice = voices.find(key, owner)
        if voice is None:
            raise HTTPException(
                404, f"voice {key}: does not exist here; send it with POST /v1/voices"
            )
        voices.remove(voice)

    @app.get("/v1/models")
    def models(owner: Owner) -> list[dict[str, str]]:
        """List the models."""
        found = sorted(shipped_models(), key=lambda model: model.name != "default")
        return [{"name": model.name, "summary": model.summary} for model in found]

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Answer while the server runs."""
        return {"status": "ok", "version": dpcl.__version__}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Return the number of jobs by state, and the seconds of audio, for Prometheus."""
        streamed = ["# TYPE dpcl_streams gauge", f"dpcl_streams {streams}"]
        return "\n".join([*jobs.metrics(), *streamed]) + "\n"

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket, rate: int = 8000, sources: int = 2) -> None:
        """Separate a stream: blocks of 32-bit floats in, interleaved sources out, 40 ms later.

        The text `end` ends the stream; the rest follows, then the connection closes.
        """
        nonlocal streams
        await socket.accept()
        try:
            owner(socket)  # type: ignore[arg-type]
            if streams >= limits.streams:
                raise InputError(f"{streams} streams are open; try again later")
            from dpcl.recordings.stream import StreamSeparator

            separator = await asyncio.to_thread(StreamSeparator, "causal", sources, rate)
        except (InputError, HTTPException) as error:
            reason = error.detail if isinstance(error, HTTPException) else str(error)
            await socket.send_json({"detail": reason})
            await socket.close(1008)
            return
        streams += 1
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data: bytes | None = message.get("bytes")
                if data is None:
                    found = await asyncio.to_thread(separator.flush)
                elif len(data) % 4:
                    raise InputError("a block ends within a sample; send 32-bit floats")
                else:
                    found = await asyncio.to_thread(separator.push, np.frombuffer(data, "<f4"))
                await socket.send_bytes(found.T.contiguous().numpy().astype("<f4").tobytes())
                if data is None:
                    await socket.close()
                    return
        except InputError as error:
            await socket.send_json({"detail": str(error)})
            await socket.close(1003)
        except WebSocketDisconnect:
            return
        finally:
            streams -= 1

    @app.get("/docs", response_class=Response)
    def documentation() -> Response:
        """Return this description as a page without programs."""
        from jinja2 import Environment

        template = (TEMPLATES / "service.html").read_text(encoding="utf-8")
        text = Environment(autoescape=True).from_string(template).render(schema=app.openapi())
        return Response(text, media_type="text/html")

    if not page:

        @app.get("/", include_in_schema=False)
        def start() -> RedirectResponse:
            return RedirectResponse("docs")

        return app

    @app.get("/visit", include_in_schema=False)
    async def visit(request: Request) -> StreamingResponse:
        """Begin a visit, which lasts as long as this connection; its jobs end with it."""
        name = request.cookies.get(VISIT, "")
        name = name if name in visits else secrets.token_urlsafe(16)
        visits[name] = visits.get(name, 0) + 1

        async def alive() -> AsyncIterator[str]:
            try:
                yield f"retry: {RETRY}\n\n"
                while True:
                    yield ": alive\n\n"
                    await asyncio.sleep(1)
            finally:
                visits[name] -= 1
                asyncio.get_running_loop().call_later(LEFT, ended, name)

        response = StreamingResponse(alive(), media_type="text/event-stream")
        response.set_cookie(VISIT, name, httponly=True, samesite="strict")
        return response

    def leave(name: str) -> None:
        """Remove all that a visit has sent."""
        jobs.leave(name)
        voices.leave(name)

    def ended(name: str) -> None:
        """End a visit that has no connection any more."""
        if not visits.get(name):
            visits.pop(name, None)
            asyncio.get_running_loop().run_in_executor(None, leave, name)

    @app.api_route("/example.flac", methods=["GET", "HEAD"], include_in_schema=False)
    def example() -> FileResponse:
        """Return the example of the repository."""
        path = find_file("examples", "two_talkers.flac")
        if path is None:
            raise HTTPException(404, "the example: is not installed; drop a recording of your own")
        return FileResponse(path)

    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app
