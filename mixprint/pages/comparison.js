// Binds each .comparison of the page to a player. What it plays stands in its JSON:
// {parts: {part: {clip: {audio, matched, original, text}}}}, gains as factors.
"use strict";

for (const box of document.querySelectorAll(".comparison")) {
  const { parts } = JSON.parse(box.querySelector("script").textContent);
  const player = new SyncPlayer();
  const find = (selector) => box.querySelector(selector);
  const button = find(".play");
  const bar = find(".position");
  const time = find(".time");
  const matched = find(".matched input");
  const levels = find(".levels");
  let part = Object.keys(parts)[0];
  box.player = player;

  const gainOf = (clip) => (matched.checked ? clip.matched : clip.original);
  const eachClip = (make) =>
    Object.fromEntries(Object.entries(parts[part]).map(([name, clip]) => [name, make(clip)]));

  function showLevels() {
    levels.textContent = Object.entries(parts[part])
      .map(([name, clip]) => `${name}: ${matched.checked ? clip.matched_text : clip.original_text}`)
      .join(" · ");
  }

  function show() {
    button.textContent = player.playing ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(player.playing));
  }

  async function load() {
    const asked = part;
    box.setAttribute("aria-busy", "true");
    await player.load(eachClip((clip) => ({ audio: clip.audio, gain: gainOf(clip) })));
    box.setAttribute("aria-busy", "false");
    if (asked !== part) await load(); // another part was chosen meanwhile
  }

  async function toggle() {
    if (player.playing) player.pause();
    else {
      if (!player.duration_s) await load();
      await player.play();
      requestAnimationFrame(follow);
    }
    show();
  }

  function follow() {
    const now_s = player.position();
    bar.value = String((1000 * now_s) / (player.duration_s || 1));
    time.textContent = `${now_s.toFixed(1)} s`;
    if (player.playing) requestAnimationFrame(follow);
  }

  button.addEventListener("click", toggle);
  bar.addEventListener("input", async () => {
    const share = Number(bar.value) / 1000;
    if (!player.duration_s) await load();
    player.seek(share * player.duration_s);
    follow();
  });
  for (const choice of box.querySelectorAll(".clip input"))
    choice.addEventListener("change", () => player.choose(choice.value));
  for (const choice of box.querySelectorAll(".part input"))
    choice.addEventListener("change", async () => {
      part = choice.value;
      showLevels();
      if (player.duration_s) await load();
    });
  matched.addEventListener("change", () => {
    showLevels();
    if (player.duration_s) player.setGains(eachClip(gainOf));
  });
  player.choose(find(".clip input:checked").value);
  showLevels();
  show();
}
