// The page of vidsift: one search box, a grid of answers, a player that starts at the moment.

const $ = (id) => document.getElementById(id);
const el = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const LEVELS = { strong: "strong match", likely: "likely match", weak: "weak match", none: "no match" };
const HISTORY = "vidsift.history";
const state = { query: "", like: null, hits: [], asked: 0, hit: null, watched: new Map() };

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, options);
  } catch {
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
  if (answer.status === 204) return null;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/login") {
    await askForToken();
    return call(path, options);
  }
  if (!answer.ok) throw new Refused(answer.status, said.error ?? `The service answered ${answer.status}.`);
  return said;
}

const post = (path, body) => call(path, {
  method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
});

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// --- the token

let waitingForToken = null;
function askForToken() {
  waitingForToken ??= new Promise((resolve) => {
    $("login").showModal();
    $("login-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await post("/login", { token: $("token").value });
        $("login").close();
        waitingForToken = null;
        resolve();
      } catch (error) {
        show($("login-error"), error.message);
      }
    };
    $("login").oncancel = (event) => event.preventDefault();
  });
  return waitingForToken;
}

function show(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

// --- searching

function filters() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  const path = $("path").value.trim();
  return { paths: path ? [path] : [], shortest: number("shortest"), longest: number("longest") };
}

const channels = () => new FormData($("filters")).get("channels") ?? "both";

const grouped = () => new FormData($("filters")).get("group") ?? "video";

async function search(ask, told) {
  const turn = ++state.asked;
  $("blank").replaceChildren();
  $("said").classList.remove("error");
  $("said").textContent = "Searching ...";
  $("grid").classList.add("waiting");
  try {
    const answer = await ask();
    if (turn !== state.asked) return;
    state.hits = answer.hits;
    draw(answer.hits);
    const ms = Object.values(answer.took_ms).reduce((a, b) => a + b, 0);
    $("said").textContent = answer.relevant === false
      ? `Nothing in this library seems to be ${told.replace(/^for /, "")}. The nearest of ${answer.clips.toLocaleString()} clips:`
      : answer.hits.length
      ? `${answer.hits.length} ${answer.hits.length === 1 ? "answer" : "answers"} ${told}, out of ${answer.clips.toLocaleString()} clips in ${ms.toFixed(0)} ms`
      : "";
    if (answer.partial) {
      const { searched, clips } = answer.partial;
      $("said").textContent += ` Not everything could be searched: ${searched.toLocaleString()} of ${clips.toLocaleString()} clips; ask again in a moment.`;
    }
    if (!answer.hits.length) nothing(answer.clips);
  } catch (error) {
    if (turn !== state.asked) return;
    draw([]);
    $("said").classList.add("error");
    $("said").textContent = error.message;
  } finally {
    if (turn === state.asked) $("grid").classList.remove("waiting");
  }
}

function byWords(query, remember = true) {
  state.query = query;
  state.like = null;
  $("query").value = query;
  document.title = query ? `${query} - vidsift` : "vidsift";
  if (!query.trim()) return welcome();
  keepInHistory(query);
  if (remember) history.pushState({}, "", `?q=${encodeURIComponent(query)}`);
  return search(
    () => post("/search", { query, k: 40, group_by: grouped(), filters: filters(), channels: channels() }),
    `for “${query}”`,
  );
}

function likeClip(hit, remember = true) {
  state.query = "";
  state.like = hit.clip;
  $("query").value = "";
  if (remember) history.pushState({}, "", `?like=${hit.clip}`);
  return search(
    () => post("/search", { like: hit.clip, k: 40, group_by: grouped(), filters: filters() }),
    hit.name ? `like ${hit.name}` : "like a clip",
  );
}

function byPicture(file) {
  state.query = "";
  state.like = null;
  $("query").value = "";
  history.pushState({}, "", location.pathname);
  return search(
    () => call(`/search/image?k=40&group_by=${grouped()}`, {
      method: "POST", headers: { "content-type": file.type || "application/octet-stream" }, body: file,
    }),
    `like ${file.name || "the picture"}`,
  );
}

function again() {
  if (state.like) return likeClip({ clip: state.like }, false);
  if (state.query) return byWords(state.query, false);
  return undefined;
}

function nothing(clips) {
  const filtered = $("path").value || $("shortest").value || $("longest").value;
  $("blank").replaceChildren(
    el("h2", { textContent: "Nothing found" }),
    el("p", { textContent: !clips ? "The library is empty." : filtered ? "No clip fits the filters." : "Try other words." }),
  );
}

async function welcome() {
  state.asked += 1;
  state.hits = [];
  draw([]);
  $("said").textContent = "";
  try {
    const stats = await call("/stats");
    tellStats(stats);
    if (!stats.clips) {
      $("blank").replaceChildren(
        el("h2", { textContent: "The library is empty" }),
        el("p", { textContent: "Index a folder of videos, then ask for what should be seen in them." }),
        el("button", { className: "go", textContent: "Index a folder", onclick: () => toggle("library", true) }),
      );
      return;
    }
    const list = await call("/videos?limit=12");
    $("blank").replaceChildren(
      el("h2", { textContent: "What are you looking for?" }),
      el("p", { textContent: `${stats.clips.toLocaleString()} clips of ${stats.files.toLocaleString()} videos are waiting. Say in a sentence what should be seen; the video opens at the moment.` }),
      ...remembered().slice(0, 6).map((query) => el("button", { textContent: query, onclick: () => byWords(query) })),
    );
    const details = await Promise.all(list.videos.map((video) => call(`/videos/${video.video}`)));
    if (state.query || state.like || state.hits.length) return;
    state.hits = details.map((video) => ({
      ...video, score: null, clip: video.parts[0].clip, start: 0, end: video.seconds,
      thumbnail: video.parts[0].thumbnail, moment: { start: 0, end: video.seconds, best: 0 },
    }));
    draw(state.hits);
  } catch (error) {
    $("said").classList.add("error");
    $("said").textContent = error.message;
  }
}

// --- the grid

function draw(hits) {
  const scores = hits.map((hit) => hit.score).filter((score) => score !== null);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  $("grid").replaceChildren(...hits.map((hit) => {
    const item = $("card").content.cloneNode(true).firstElementChild;
    const card = item.firstElementChild;
    const moment = hit.score === null ? clock(hit.end) : `${clock(hit.moment.start)} – ${clock(hit.moment.end)}`;
    card.querySelector("img").src = hit.thumbnail;
    card.querySelector(".time").textContent = moment;
    card.querySelector(".name").textContent = hit.name;
    // What is said need not look like it: "no match" beside the line would be wrong.
    const bySight = !hit.cue || (hit.channels.includes("pictures") && hit.level !== "none");
    const sure = !bySight ? "" : hit.level ? `${LEVELS[hit.level]}, ${Math.round(100 * hit.confidence)}%` : hit.score === null ? "" : hit.score.toFixed(3);
    const alike = hit.alike?.length ? `and ${hit.alike.length} alike` : "";
    card.querySelector(".where").textContent = [sure, alike, hit.path].filter(Boolean).join(" · ");
    card.classList.toggle("unsure", hit.level === "none" && !hit.cue);
    card.title = [hit.path, ...(hit.alike ?? []).map((other) => other.path)].join("\n");
    const spoken = card.querySelector(".spoken");
    spoken.hidden = !hit.cue;
    if (hit.cue) {
      spoken.querySelector(".badge").textContent = foundBy(hit);
      spoken.querySelector("q").textContent = hit.cue.text;
    }
    card.setAttribute("aria-label", hit.score === null
      ? `${hit.name}, ${moment}`
      : [
        `${hit.name}, moment ${moment}`,
        bySight && (hit.level ? sure : `score ${sure}`),
        alike,
        hit.cue && `found by ${foundBy(hit)}: ${hit.cue.text}`,
      ].filter(Boolean).join(", ") + ". Play from there");
    const meter = card.querySelector(".meter");
    meter.hidden = hit.score === null || !bySight;
    meter.firstElementChild.style.setProperty("width", `${100 * (hit.level ? Math.max(0.04, hit.confidence) : high > low ? 0.12 + 0.88 * (hit.score - low) / (high - low) : 1)}%`);
    card.onclick = () => play(hit);
    preview(card, hit);
    return item;
  }));
}

const foundBy = (hit) => hit.channels.join(" and ");

function preview(card, hit) {
  const picture = card.querySelector(".picture");
  let wait = 0;
  const stop = () => {
    clearTimeout(wait);
    picture.querySelector("video")?.remove();
  };
  card.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "mouse" || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    wait = setTimeout(() => {
      const { start, end } = hit.moment;
      const video = el("video", { muted: true, playsInline: true, src: `${hit.content}#t=${start}`, tabIndex: -1 });
      video.ontimeupdate = () => { if (video.currentTime > Math.max(end, start + 1)) video.currentTime = start; };
      video.onerror = () => video.remove();
      picture.append(video);
      video.play().catch(() => video.remove());
    }, 350);
  });
  card.addEventListener("pointerleave", stop);
}

// Arrow keys go through the grid as the eye does.
$("grid").addEventListener("keydown", (event) => {
  const cards = [...$("grid").querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (event.key === "Home") cards[0].focus();
  else if (event.key === "End") cards.at(-1).focus();
  else if (step && cards[at + step]) cards[at + step].focus();
  else if (step && at + step < 0) $("query").focus();
  else return;
  event.preventDefault();
});

// --- the player

async function play(hit) {
  state.hit = hit;
  const video = $("video");
  $("player-name").textContent = hit.name;
  $("strip").replaceChildren();
  $("player-note").textContent = "";
  show($("video-error"), "");
  video.src = hit.content;
  video.onloadedmetadata = () => { video.currentTime = Math.min(hit.moment.start, video.duration || hit.moment.start); };
  video.onerror = async () => {
    if (!video.getAttribute("src")) return;
    const answer = await fetch(hit.content, { headers: { range: "bytes=0-0" } }).catch(() => null);
    const said = answer && !answer.ok ? await answer.json().catch(() => null) : null;
    show($("video-error"), said?.error ?? "The browser cannot play this file's codec; its moment is shown above.");
  };
  if (!$("player").open) $("player").showModal();
  video.play().catch(() => {});
  if (state.query) await strip(hit);
}

async function strip(hit) {
  try {
    const { times, relevance } = await call(`/videos/${hit.video}/relevance?q=${encodeURIComponent(state.query)}`);
    if (state.hit !== hit) return;
    const [low, high] = [Math.min(...relevance), Math.max(...relevance)];
    $("strip").replaceChildren(...times.map((time, i) => {
      const height = high > low ? (relevance[i] - low) / (high - low) : 1;
      const bar = el("button", { type: "button", title: clock(time) });
      bar.style.setProperty("height", `${8 + 92 * height}%`);
      bar.classList.toggle("inside", time >= hit.moment.start && time <= hit.moment.end);
      bar.setAttribute("aria-label", `${clock(time)}, ${Math.round(100 * height)} of 100`);
      bar.onclick = () => { $("video").currentTime = time; $("video").play().catch(() => {}); };
      return bar;
    }));
    const span = `${clock(hit.moment.start)} – ${clock(hit.moment.end)}`;
    $("player-note").textContent = hit.cue ? `Said at ${span}: “${hit.cue.text}”` : `The best moment is ${span}.`;
  } catch (error) {
    $("player-note").textContent = error.message;
  }
}

$("player").addEventListener("close", () => {
  $("video").pause();
  $("video").removeAttribute("src");
  $("video").load();
  state.hit = null;
});
$("player").addEventListener("click", (event) => { if (event.target === $("player")) $("player").close(); });
$("close").onclick = () => $("player").close();
$("more").onclick = () => {
  const hit = state.hit;
  $("player").close();
  if (hit) likeClip(hit);
};

// --- the library and its jobs

function toggle(panel, open = $(panel).hidden) {
  $(panel).hidden = !open;
  $(`show-${panel}`).setAttribute("aria-expanded", String(open));
  if (open) $(panel).querySelector("input")?.focus();
  if (panel === "library" && open) refreshLibrary();
}

function tellStats(stats) {
  $("channels").hidden = !stats.words;
  $("stats").textContent = `${stats.clips.toLocaleString()} clips of ${stats.files.toLocaleString()} videos; model ${stats.model.split("/").at(-1)}.`;
  $("folders").replaceChildren(...stats.libraries.map((value) => el("option", { value })));
}

async function refreshLibrary() {
  try {
    tellStats(await call("/stats"));
    const { jobs } = await call("/jobs");
    for (const job of jobs.slice(0, 8).reverse()) watchJob(job);
  } catch (error) {
    show($("job-error"), error.message);
  }
}

function watchJob(job) {
  drawJob(job);
  if (state.watched.has(job.id) || !["queued", "running"].includes(job.state)) return;
  const events = new EventSource(`/api/v1/jobs/${job.id}/events`);
  state.watched.set(job.id, events);
  events.onmessage = (event) => {
    const now = JSON.parse(event.data);
    drawJob(now);
    if (["queued", "running"].includes(now.state)) return;
    events.close();
    state.watched.delete(job.id);
    setTimeout(async () => {
      tellStats(await call("/stats"));
      if (!state.query && !state.like) welcome();
    }, 1200);
  };
}

function drawJob(job) {
  const id = `job-${job.id}`;
  const { progress, report } = job;
  const open = ["queued", "running"].includes(job.state);
  const item = el("li", { id });
  item.append(el("strong", { textContent: job.paths.join(", ") }));
  if (open) {
    const bar = el("progress", { max: progress.bytes_total || 1 });
    bar.setAttribute("aria-label", `Progress of indexing ${job.paths.join(", ")}`);
    if (job.state === "running" && progress.stage === "read") bar.value = progress.bytes_done;
    // A guess from the first file or two would be far off.
    const left = progress.bytes_done > 0.02 * progress.bytes_total ? progress.seconds_left : null;
    const said = job.state === "queued" ? "waiting" : progress.stage === "read"
      ? `${progress.done} of ${progress.total} files, ${progress.clips} clips${left === null ? "" : `, ${clock(left)} left`}`
      : progress.stage;
    const cancel = el("button", { type: "button", textContent: "Cancel", onclick: () => cancelJob(job) });
    cancel.setAttribute("aria-label", `Cancel indexing ${job.paths.join(", ")}`);
    item.append(bar, el("span", { className: "state", textContent: said }), cancel);
  } else {
    const done = report
      ? `${report.added} added, ${report.updated} updated, ${report.removed} removed, ${report.unchanged} unchanged`
      : job.error || "";
    item.append(el("span", { className: job.state === "failed" ? "state error" : "state", textContent: `${job.state}${done ? `: ${done}` : ""}` }));
    const problems = [...(report?.failed ?? []), ...(report?.partial ?? [])];
    if (problems.length) {
      item.append(el("details", {}, el("summary", { textContent: `${problems.length} files with problems` }),
        ...problems.slice(0, 100).map((problem) => el("div", { textContent: `${problem.path}: ${problem.reason}` }))));
    }
  }
  const there = document.getElementById(id);
  if (there) there.replaceWith(item);
  else $("jobs").prepend(item);
}

async function cancelJob(job) {
  try {
    drawJob(await call(`/jobs/${job.id}`, { method: "DELETE" }));
  } catch (error) {
    show($("job-error"), error.message);
  }
}

$("index").onsubmit = async (event) => {
  event.preventDefault();
  show($("job-error"), "");
  try {
    watchJob(await post("/jobs", { paths: [$("folder").value.trim()] }));
    $("folder").value = "";
  } catch (error) {
    show($("job-error"), error.message);
  }
};

// --- what was asked before

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY)) ?? [];
  } catch {
    return [];
  }
}

function keepInHistory(query) {
  const kept = [query, ...remembered().filter((other) => other !== query)].slice(0, 30);
  try {
    localStorage.setItem(HISTORY, JSON.stringify(kept));
  } catch { /* a browser that keeps nothing */ }
  $("history").replaceChildren(...kept.map((value) => el("option", { value })));
}

// --- wiring

$("ask").onsubmit = (event) => {
  event.preventDefault();
  byWords($("query").value.trim());
};
$("picture").onchange = () => {
  const [file] = $("picture").files;
  if (file) byPicture(file);
  $("picture").value = "";
};
$("show-filters").onclick = () => {
  toggle("filters");
  if (!$("filters").hidden) call("/stats").then(tellStats, (error) => { $("said").textContent = error.message; });
};
$("show-library").onclick = () => toggle("library");
$("filters").onchange = again;
$("filters").onreset = () => setTimeout(again);
$("filters").onsubmit = (event) => { event.preventDefault(); again(); };
$("home").onclick = (event) => {
  event.preventDefault();
  history.pushState({}, "", "/");
  byWords("", false);
};

let dragged = 0;
const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (carriesFile(event)) { dragged += 1; $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (carriesFile(event) && --dragged <= 0) { dragged = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => { if (carriesFile(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) byPicture(file);
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName) && !$("player").open) {
    event.preventDefault();
    $("query").focus();
  }
  if (event.key === "ArrowDown" && document.activeElement === $("query")) $("grid").querySelector(".card")?.focus();
});

function open() {
  const asked = new URLSearchParams(location.search);
  if (asked.get("like")) return likeClip({ clip: asked.get("like") }, false);
  return byWords(asked.get("q") ?? "", false);
}
addEventListener("popstate", open);
$("history").replaceChildren(...remembered().map((value) => el("option", { value })));
open();
