// The listening test: a trial per screen, ratings to a file at the end.
// What is asked stands in the JSON of the page, the sounds in scripts that call stimulus().
"use strict";

const TEST = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const WORDS = ["bad", "poor", "fair", "good", "excellent"];
const QUESTIONS = {
  true: "How near is each version to the reference, in its mix and in its quality?",
  false:
    "How well does each version have the mixing style of the reference (levels, tone, space, " +
    "dynamics)? The reference is another piece of music; one version is the reference itself.",
};
const byId = (id) => document.getElementById(id);
const player = new SyncPlayer();
const sounds = {}; // stimulus -> base64, of the trial that is on
const results = [];
let session = null;
let trial = null;

function stimulus(name, audio) {
  sounds[name] = audio;
}

// A listener's name always gives the same order (FNV-1a, then mulberry32).
function seedOf(text) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled(values, random) {
  const order = [...values];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function begin() {
  const listener = byId("listener").value.trim();
  const seed = seedOf(`${TEST.seed}/${listener}`);
  const random = randomOf(seed);
  session = {
    listener,
    seed,
    started: new Date().toISOString(),
    trials: shuffled(TEST.trials, random).map((asked) => ({
      asked,
      order: shuffled(Object.keys(asked.conditions), random),
    })),
  };
  byId("begin").hidden = true;
  byId("trial").hidden = false;
  showTrial();
}

function loadScript(name) {
  return new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = `audio/${name}.js`;
    script.onload = () => done(script.remove());
    script.onerror = () => fail(new Error(`audio/${name}.js is missing beside the page`));
    document.head.append(script);
  });
}

async function showTrial() {
  const { asked, order } = session.trials[results.length];
  trial = { asked, order, scores: {}, plays: {}, begun_ms: performance.now(), ready: false };
  byId("progress").textContent = `${results.length + 1} of ${session.trials.length}`;
  byId("question").textContent = QUESTIONS[asked.has_truth];
  byId("from").value = "0";
  byId("to").value = "1000";
  byId("conditions").replaceChildren(...order.map(makeRow));
  byId("progress").focus();
  showMissing();
  const names = order.map((condition) => asked.conditions[condition].stimulus);
  await Promise.all(names.map(loadScript));
  const clips = order.map((condition, i) => [letter(i), { audio: sounds[names[i]], gain: 1 }]);
  // The position refers to the first clip; the reference may be another song of another length.
  const hidden = order.indexOf(TEST.reference);
  const [last] = clips.splice(hidden, 1);
  clips.push(last, ["reference", last[1]]);
  player.position_s = 0;
  await player.load(Object.fromEntries(clips));
  player.setRegion(0, Infinity);
  choose("reference");
  showRegion();
  trial.ready = true;
  showMissing();
}

const letter = (index) => String.fromCharCode(65 + index);

function makeRow(condition, index) {
  const name = letter(index);
  const row = byId("condition").content.firstElementChild.cloneNode(true);
  const [button, slider, output] = row.children;
  button.textContent = name;
  slider.setAttribute("aria-label", `rating of ${name}`);
  button.dataset.name = name;
  slider.dataset.name = name;
  button.addEventListener("click", () => hear(name));
  const rate = () => {
    const score = Number(slider.value);
    trial.scores[condition] = score;
    output.textContent = String(score);
    slider.setAttribute("aria-valuetext", `${score}, ${WORDS[Math.min(4, Math.floor(score / 20))]}`);
    row.classList.add("rated");
    showMissing();
  };
  // A slider that is left at 0 counts when it was touched.
  for (const kind of ["input", "click"]) slider.addEventListener(kind, rate);
  return row;
}

function choose(name) {
  player.choose(name);
  for (const button of document.querySelectorAll("#trial .choice"))
    button.setAttribute("aria-pressed", String((button.dataset.name ?? "reference") === name));
}

async function hear(name) {
  if (!trial.ready) return;
  choose(name);
  trial.plays[name] = (trial.plays[name] ?? 0) + 1;
  await setPlaying(true);
  showMissing();
}

async function setPlaying(wanted) {
  if (!trial.ready) return;
  if (wanted && !player.playing) {
    await player.play();
    requestAnimationFrame(follow);
  } else if (!wanted) player.pause();
  byId("play").textContent = player.playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(player.playing));
}

function follow() {
  byId("position").textContent = `${player.position().toFixed(1)} s`;
  if (player.playing) requestAnimationFrame(follow);
}

function setRegion() {
  const [from, to] = [Number(byId("from").value), Number(byId("to").value)];
  // At least a twentieth, whichever end is moved.
  const first = Math.min(from, 950);
  const last = Math.max(to, first + 50);
  byId("from").value = String(first);
  byId("to").value = String(last);
  player.setRegion((first / 1000) * player.duration_s, (last / 1000) * player.duration_s);
  showRegion();
}

function showRegion() {
  const [from, to] = player.loop({ duration: player.duration_s });
  byId("region").textContent = `${from.toFixed(1)} to ${to.toFixed(1)} s`;
}

// Every version must have been heard and rated, and the reference heard.
function showMissing() {
  const names = trial.order.map((_, i) => letter(i));
  const unheard = ["reference", ...names].filter((name) => !trial.plays[name]);
  const unrated = names.filter((_, i) => !(trial.order[i] in trial.scores));
  byId("missing").textContent = !trial.ready
    ? "Loading …"
    : [
        unheard.length ? `not heard yet: ${unheard.join(", ")}` : "",
        unrated.length ? `not rated yet: ${unrated.join(", ")}` : "",
      ]
        .filter(Boolean)
        .join(" · ");
  byId("next").disabled = !trial.ready || unheard.length > 0 || unrated.length > 0;
}

function next() {
  const byCondition = (values) =>
    Object.fromEntries(trial.order.map((condition, i) => [condition, values[letter(i)]]));
  results.push({
    trial: trial.asked.trial,
    order: trial.order,
    scores: trial.scores,
    plays: byCondition(trial.plays),
    seconds: Math.round((performance.now() - trial.begun_ms) / 100) / 10,
  });
  setPlaying(false);
  player.forget();
  for (const name of Object.keys(sounds)) delete sounds[name];
  if (results.length < session.trials.length) showTrial();
  else {
    session.finished = new Date().toISOString();
    byId("trial").hidden = true;
    byId("end").hidden = false;
    byId("end").querySelector("h2").focus();
  }
}

function save() {
  const { listener, seed, started, finished } = session;
  const values = {
    kind: "mixprint listening results",
    version: TEST.version,
    fingerprint: TEST.fingerprint,
    listener,
    seed,
    started,
    finished,
    comment: byId("comment").value,
    trials: results,
  };
  const link = document.createElement("a");
  const text = JSON.stringify(values, null, 2);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const safe = listener.replace(/[^a-z0-9]+/gi, "-");
  link.download = `listener-${safe}-${TEST.fingerprint.slice(0, 8)}.json`;
  link.click();
}

byId("listener").addEventListener("input", (event) => {
  byId("start").disabled = !event.target.value.trim();
});
byId("start").addEventListener("click", begin);
byId("play").addEventListener("click", () => {
  if (player.playing) setPlaying(false);
  else hear(player.heard);
});
byId("reference").addEventListener("click", () => hear("reference"));
byId("from").addEventListener("input", setRegion);
byId("to").addEventListener("input", setRegion);
byId("next").addEventListener("click", next);
byId("export").addEventListener("click", save);

// Keys of the trial; what writes, and the way on, keep theirs. Enter presses any button.
const takesKeys = (event) =>
  !byId("trial").hidden &&
  !event.target.matches("textarea, #listener, #next") &&
  !(event.ctrlKey || event.altKey || event.metaKey);

document.addEventListener("keydown", (event) => {
  if (!takesKeys(event)) return;
  const key = event.key.toUpperCase();
  const slider = document.querySelector(`#conditions input[data-name="${CSS.escape(key)}"]`);
  if (key === "R" || slider) {
    hear(slider ? key : "reference");
    (slider ?? byId("reference")).focus();
    event.preventDefault();
  } else if (key === " ") {
    byId("play").click();
    event.preventDefault();
  }
});
// A browser may press a focused button only when the space bar comes up.
document.addEventListener("keyup", (event) => {
  if (event.key === " " && takesKeys(event)) event.preventDefault();
});
