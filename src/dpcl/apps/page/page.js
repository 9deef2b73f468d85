// The page of dpcl: sends a recording, follows its job, plays all sources in step.
const $ = (id) => document.getElementById(id);
const COLOURS = [ // of the sources, for light and dark mode
  "#0072b2, #5ab0ee", "#b56a00, #e69f00", "#007d5b, #2fc494", "#b04a8c, #e08fc0",
  "#5b57c8, #a9a4ff", "#c0392b, #ff8264", "#6f6a00, #d0c540",
];
const GREY = "#666, #a0a0a0"; // of the background
let job = null; // description of the job, from the server
let upload = null; // request of an upload that runs
let tracks = []; // track elements, one per source
let turn = 0; // number of the recording; a later one replaces it
let begun = 0; // time at which it was sent, in ms

// The visit lasts as long as this connection; the server removes its recordings afterwards.
new EventSource("visit");

function say(text, error = false) {
  $("message").textContent = text;
  $("message").className = error ? "error" : "";
}

const clock = (seconds) => {
  const whole = Math.round(seconds || 0);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

async function drop() {
  turn += 1;
  upload?.abort();
  upload = null;
  const id = job?.id;
  job = null;
  $("work").hidden = $("result").hidden = true;
  tracks.forEach((track) => track.close());
  tracks = [];
  $("tracks").replaceChildren();
  if (id) await fetch(`v1/jobs/${id}`, { method: "DELETE" }).catch(() => null);
}

async function send(data, name) {
  const left = drop();
  const mine = turn;
  await left;
  if (mine !== turn) return;
  say(`Sends ${name}.`);
  begun = Date.now();
  $("work").hidden = false;
  $("progress").removeAttribute("value");
  const query = new URLSearchParams({ name, model: $("model").value });
  try {
    for (const voice of await sendVoices()) query.append("voice", voice);
  } catch (error) {
    if (mine === turn) fail(error.message);
    return;
  }
  if (mine !== turn) return;
  query.set("spatial", $("spatial").checked);
  if ($("sources").value) query.set("sources", $("sources").value);
  const request = new XMLHttpRequest();
  upload = request;
  request.open("POST", `v1/jobs?${query}`);
  request.upload.onprogress = (event) => {
    if (event.lengthComputable) $("progress").value = event.loaded / event.total;
  };
  request.onload = () => {
    const answer = JSON.parse(request.responseText);
    if (request.status === 202) return follow(answer);
    for (const row of $("voices").children) row.voice = null; // the server may have removed them
    fail(reason(answer));
  };
  request.onerror = () => fail("The server cannot be reached; is dpcl still running?");
  request.send(data);
}

const reason = (answer) => answer.detail?.[0]?.msg ?? answer.detail;

// Sends the recordings of known voices that the server does not have; returns the ids of all.
async function sendVoices() {
  const ids = [];
  for (const row of $("voices").children) {
    const [name, file] = row.querySelectorAll("input");
    const [recording] = file.files;
    if (!recording && !name.value.trim()) continue;
    if (!recording) throw new Error(`Voice ${name.value}: has no recording; choose a file`);
    name.value = name.value.trim() || recording.name.replace(/\.[^.]*$/, "");
    if (!row.voice) {
      const query = new URLSearchParams({ name: name.value, file: recording.name });
      const answer = await fetch(`v1/voices?${query}`, { method: "POST", body: recording });
      const found = await answer.json();
      if (!answer.ok) throw new Error(reason(found));
      row.voice = found.id;
    }
    ids.push(row.voice);
  }
  return ids;
}

let rows = 0; // number of rows of voices that were added
function addVoice() {
  const row = document.createElement("li");
  rows += 1;
  row.innerHTML = `<label>Name<input type="text" placeholder="Ann" aria-label="Name of voice ${rows}"></label>
    <label>Recording<input type="file" accept="audio/*,video/*,.flac" aria-label="Recording of voice ${rows}"></label>
    <button type="button" aria-label="Remove voice ${rows}">Remove</button>`;
  const forget = () => {
    if (row.voice) fetch(`v1/voices/${row.voice}`, { method: "DELETE" });
    row.voice = null;
  };
  for (const field of row.querySelectorAll("input")) field.onchange = forget;
  row.querySelector("button").onclick = () => {
    forget();
    row.remove();
    $("add").focus();
  };
  $("voices").append(row);
  row.querySelector("input").focus();
}

function fail(sentence) {
  $("work").hidden = true;
  say(sentence.endsWith(".") ? sentence : `${sentence}.`, true);
}

function follow(first) {
  job = first;
  upload = null;
  const events = new EventSource(`v1/jobs/${first.id}/events`);
  events.onmessage = (event) => {
    const now = JSON.parse(event.data);
    if (job?.id !== now.id) return events.close();
    job = now;
    if (now.state === "queued") {
      $("progress").removeAttribute("value");
      say(now.position > 1 ? `Waits; place ${now.position} in the queue.` : "Begins.");
    } else if (now.state === "running") {
      if (now.share) $("progress").value = now.share;
      else $("progress").removeAttribute("value"); // reads the recording
      say(`Separates ${now.name}${now.share ? `: ${Math.round(100 * now.share)} %` : ""}.`);
    } else {
      events.close();
      if (now.state === "done") show();
      else fail(now.error ?? "Cancelled.");
    }
  };
  events.onerror = () => {
    if (job?.id !== first.id) return events.close();
    if (events.readyState !== EventSource.CLOSED) return say("The connection is lost; tries again.");
    fail("The recording is no longer on the server; send it again.");
  };
}

function show() {
  $("work").hidden = true;
  const names = Object.keys(job.files);
  const voices = job.names.filter((name) => name !== "background").length;
  say([`${voices} source${voices === 1 ? "" : "s"} in ${clock(job.seconds)} min,`,
    `separated in ${job.took.toFixed(1)} s.`, ...job.warnings.map((text) => `${text}.`)].join(" "));
  $("zip").href = job.zip;
  tracks = names.map((name, number) => {
    const track = document.createElement("source-track");
    track.segments = job.timeline.filter(({ talker }) => talker === job.names[number]);
    track.begin(name, job.files[name], job.peaks[number], number, job.names[number]);
    return track;
  });
  $("tracks").replaceChildren(...tracks);
  $("result").hidden = false;
  tracks.forEach((track) => track.draw());
  mix();
}

// A source: name, solo, mute, level, waveform, spectrogram on demand. Its sound is an <audio>.
class SourceTrack extends HTMLElement {
  begin(file, address, peaks, number, name) {
    this.className = "track";
    this.setAttribute("role", "group");
    this.peaks = peaks;
    this.sound = new Audio(address);
    this.sound.preload = "auto";
    const background = name === "background";
    const known = !background && !/^s\d+$/.test(name); // the name of a known voice has no < and "
    const title = background ? "Background" : known ? name : `Source ${number + 1}`;
    this.setAttribute("aria-label", title);
    const colours = background ? GREY : COLOURS[number % COLOURS.length];
    this.style.setProperty("--colour", `light-dark(${colours})`);
    this.innerHTML = `<div class="controls">
      <input type="text" aria-label="Name of ${title}" value="${title}">
      <button type="button" class="solo" aria-pressed="false" aria-label="Solo ${title}">Solo</button>
      <button type="button" class="mute" aria-pressed="false" aria-label="Mute ${title}">Mute</button>
      <button type="button" class="picture" aria-expanded="false"
       aria-label="Spectrogram of ${title}">Spectrogram</button>
      <a class="button" download aria-label="Save ${title}">Save</a>
      <label>Level<input type="range" min="0" max="1" step="0.01" value="1" aria-label="Level of ${title}">
      </label></div><div><canvas role="img" aria-label="Waveform of ${title}, active ${
        this.segments.length} times"></canvas></div>`;
    const link = this.querySelector("a");
    link.href = address;
    this.querySelector("input[type=text]").oninput = (event) => {
      link.download = `${event.target.value.trim() || title}${file.slice(file.lastIndexOf("."))}`;
    };
    for (const button of this.querySelectorAll(".solo, .mute")) {
      button.onclick = () => {
        button.ariaPressed = String(button.ariaPressed !== "true");
        mix();
      };
    }
    this.querySelector("input[type=range]").oninput = mix;
    this.querySelector("canvas").onclick = (event) => jump(event.offsetX / event.target.clientWidth);
    const picture = this.querySelector(".picture");
    picture.onclick = () => {
      const image = this.querySelector("img");
      picture.ariaExpanded = String(!image);
      this.querySelector(".drawing")?.remove();
      if (image) return image.remove();
      const made = document.createElement("img");
      const note = document.createElement("p");
      Object.assign(note, { className: "note drawing", role: "status" });
      note.textContent = "Draws the spectrogram.";
      made.onload = () => note.remove();
      made.onerror = () => {
        made.hidden = true;
        note.textContent = "The spectrogram cannot be drawn.";
      };
      made.alt = `Spectrogram of ${title}`;
      made.src = `${address}/spectrogram`;
      this.lastElementChild.append(note, made);
    };
  }

  pressed(name) {
    return this.querySelector(`.${name}`).ariaPressed === "true";
  }

  draw() {
    const canvas = this.querySelector("canvas");
    const scale = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
    if (!width) return;
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(this);
    const colour = getComputedStyle(this.querySelector("input")).borderLeftColor;
    const played = (this.sound.currentTime / (job?.seconds || 1)) * width;
    const bars = Math.min(this.peaks.length, Math.floor(width));
    for (let k = 0; k < bars; k += 1) {
      const from = Math.floor((k * this.peaks.length) / bars);
      const to = Math.max(from + 1, Math.floor(((k + 1) * this.peaks.length) / bars));
      const tall = Math.max(1, (Math.max(...this.peaks.slice(from, to)) / 255) * height);
      const x = (k * width) / bars;
      pen.globalAlpha = x < played ? 1 : 0.7;
      pen.fillStyle = colour;
      pen.fillRect(x, (height - tall) / 2, Math.max(1, width / bars), tall);
    }
    pen.globalAlpha = 1;
    for (const { start, end } of this.segments) { // who speaks when: bars below the waveform
      const [from, to] = [start, end].map((time) => (time / job.seconds) * width);
      pen.fillStyle = colour;
      pen.fillRect(from, height - 6 * scale, Math.max(scale, to - from), 6 * scale);
    }
    pen.fillStyle = style.color;
    pen.fillRect(played, 0, scale, height);
  }

  close() {
    this.sound.pause();
    this.sound.removeAttribute("src");
    this.sound.load();
  }
}
customElements.define("source-track", SourceTrack);

function mix() {
  const solo = tracks.some((track) => track.pressed("solo"));
  for (const track of tracks) {
    const on = solo ? track.pressed("solo") : !track.pressed("mute");
    track.sound.volume = on ? Number(track.querySelector("input[type=range]").value) : 0;
  }
}

function playing() {
  return tracks.length > 0 && !tracks[0].sound.paused;
}

async function toggle() {
  if (playing()) tracks.forEach((track) => track.sound.pause());
  else {
    const time = tracks[0].sound.ended ? 0 : tracks[0].sound.currentTime;
    tracks.forEach((track) => (track.sound.currentTime = time));
    await Promise.all(tracks.map((track) => track.sound.play()));
  }
  $("play").textContent = playing() ? "Pause" : "Play";
}

function jump(share) {
  tracks.forEach((track) => (track.sound.currentTime = share * job.seconds));
  refresh();
}

function refresh() {
  if (!tracks.length || !job) return;
  const time = tracks[0].sound.currentTime;
  for (const track of tracks.slice(1)) {
    if (playing() && Math.abs(track.sound.currentTime - time) > 0.05) track.sound.currentTime = time;
  }
  $("time").textContent = `${clock(time)} / ${clock(job.seconds)}`;
  if (document.activeElement !== $("seek") || playing()) $("seek").value = time / job.seconds;
  $("play").textContent = playing() ? "Pause" : "Play";
  tracks.forEach((track) => track.draw());
}

// Sound of the microphone as a WAV file, which every server can read.
async function asWav(blob) {
  const context = new AudioContext();
  const sound = await context.decodeAudioData(await blob.arrayBuffer());
  context.close();
  const samples = sound.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((c, k) => view.setUint8(at + k, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sound.sampleRate, true);
  view.setUint32(28, 2 * sound.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, k) => view.setInt16(44 + 2 * k, Math.max(-1, Math.min(1, x)) * 32767, true));
  return new Blob([view.buffer]);
}

let recorder = null;
async function record() {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      $("record").ariaPressed = "false";
      $("record").textContent = "Record";
      await send(await asWav(new Blob(parts)), "microphone.wav");
    };
    recorder.start();
    $("record").ariaPressed = "true";
    $("record").textContent = "Stop and separate";
    say("Records.");
  } catch (error) {
    say(`The microphone cannot be used (${error.message}).`, true);
  }
}

for (let n = 1; n <= 10; n += 1) $("sources").append(new Option(n, n));
const models = await (await fetch("v1/models")).json();
$("model").append(...models.map((model) => new Option(model.name, model.name)));
const describe = () => {
  const { summary } = models.find((model) => model.name === $("model").value);
  $("summary").textContent = summary.replaceAll("`", "");
};
describe();
$("model").onchange = describe;
$("order").onsubmit = (event) => event.preventDefault();
$("file").onchange = (event) => {
  const [file] = event.target.files;
  if (file) send(file, file.name);
  event.target.value = "";
};
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (event.target.closest?.("#known")) return; // the fields there take files themselves
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) send(file, file.name);
  });
}
const example = await fetch("example.flac", { method: "HEAD" });
$("example").hidden = !example.ok;
$("example").onclick = async () => send(await (await fetch("example.flac")).blob(), "two_talkers.flac");
$("record").onclick = record;
$("add").onclick = addVoice;
$("known").ontoggle = () => $("known").open && !$("voices").children.length && addVoice();
$("cancel").onclick = async () => {
  await drop();
  say("Cancelled.");
};
$("play").onclick = toggle;
$("seek").oninput = (event) => jump(event.target.value);
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, button, a");
  if (event.code === "Space" && !typing && tracks.length) {
    event.preventDefault();
    toggle();
  }
});
addEventListener("resize", refresh);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
setInterval(() => playing() && refresh(), 100);
setInterval(() => ($("elapsed").textContent = clock((Date.now() - begun) / 1000)), 500);
document.documentElement.dataset.ready = "true";
