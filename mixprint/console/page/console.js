// Binds each .desk of the page: a console that is drawn, played and changed. What it shows stands
// in its JSON, see mixprint/console/page/building.py.
"use strict";

class ConsoleDesk {
  constructor(box) {
    this.box = box;
    this.data = JSON.parse(box.querySelector("script.data").textContent);
    const { data } = this;
    this.names = data.tracks.map(({ name }) => name);
    this.rows = [...this.names, data.master]; // of the settings
    this.player = new ConsolePlayer(
      data,
      document.querySelector("script.console-worklet").textContent
    );
    this.now = this.readSettings(data.settings);
    this.before = data.before && this.readSettings(data.before);
    this.undone = [];
    this.done = [];
    this.last = this.now; // as the history knows it
    this.isBefore = false;
    this.chosen = 0;
    this.soloed = new Set();
    this.muted = new Set();
    this.measured = new Map(); // settings as text -> loudness and peak
    this.find = (selector) => box.querySelector(selector);
    this.makeStrips();
    this.bindTransport();
    this.bindFiles();
    this.bindKeys();
    this.choose(0);
    this.show();
    if (typeof AudioWorkletNode === "undefined")
      this.tell(
        "This browser plays no AudioWorklet here: settings can be changed and saved, not heard."
      );
  }

  fieldsOf(row) {
    return row < this.names.length ? this.data.fields : this.data.master_fields;
  }

  colourOf(row) {
    return this.data.tracks[row]?.colour ?? "currentColor";
  }

  // Settings as rows of values by name, out of what a settings.json holds.
  readSettings(file) {
    const refuse = (where, expected, found) => {
      throw new Error(`${where}: expected ${expected}, found ${found}`);
    };
    const { format, version } = this.data.file;
    if (file?.format !== format) refuse("format", `"${format}"`, JSON.stringify(file?.format));
    if (file.version !== version) refuse("version", version, JSON.stringify(file.version));
    const kind = this.data.file.rooms;
    if ((file.rooms ?? "inserts") !== kind) refuse("rooms", kind, JSON.stringify(file.rooms));
    const found = (file.tracks ?? []).map(({ name }) => name);
    if ([...found].sort().join("\n") !== [...this.names].sort().join("\n"))
      refuse("tracks", this.names.join(", "), found.join(", "));
    const rows = this.rows.map((name, row) => {
      const isMaster = row === this.names.length;
      const { name: _, ...own } = isMaster ? { ...file[name] } : file.tracks[found.indexOf(name)];
      const fields = this.fieldsOf(row);
      const values = Object.fromEntries(fields.map((field) => [field.name, field.neutral]));
      const read = (inner, path) => {
        if (inner !== null && typeof inner === "object")
          return Object.entries(inner).forEach(([key, value]) =>
            read(value, path ? `${path}.${key}` : key)
          );
        const field = fields.find((each) => each.name === path);
        if (!field) refuse(`${name}.${path}`, "a setting of this console", "another name");
        if (typeof inner !== "number") refuse(`${name}.${path}`, "a number", JSON.stringify(inner));
        if (!(inner >= field.low && inner <= field.high))
          refuse(`${name}.${path}`, field.range_text, inner);
        values[path] = inner;
      };
      read(own, "");
      return values;
    });
    const num_rooms = this.sharedRooms(rows.slice(0, -1)).size;
    const { max } = this.data.shared_rooms;
    if (kind === "sends" && num_rooms > max)
      refuse("room", `at most ${max} different rooms`, num_rooms);
    return { rows };
  }

  // What a settings.json holds.
  writeSettings({ rows }) {
    const nested = (values) => {
      const file = {};
      for (const [name, value] of Object.entries(values)) {
        const parts = name.split(".");
        const last = parts.pop();
        let inner = file;
        for (const part of parts) inner = inner[part] ??= {};
        inner[last] = value;
      }
      return file;
    };
    const tracks = this.names.map((name, row) => ({ name, ...nested(rows[row]) }));
    return { ...this.data.file, tracks, [this.data.master]: nested(rows[this.names.length]) };
  }

  // As the audio thread takes them: values in the order of the table.
  packed({ rows }) {
    const lists = rows.map((values, row) => this.fieldsOf(row).map((field) => values[field.name]));
    const master = lists.pop();
    return { rooms: this.data.file.rooms, tracks: lists, master };
  }

  // Change settings of a row; a final change can be undone.
  change(row, values, isFinal) {
    if (this.isBefore) this.hearBefore(false);
    const rows = this.now.rows.map((own, i) => (i === row ? { ...own, ...values } : own));
    if (this.data.file.rooms === "sends" && row < this.names.length) this.shareRoom(rows, row);
    this.now = { rows };
    if (isFinal) this.commit();
    this.send();
    this.show();
  }

  isSent(values) {
    return (
      values["room.send_db"] !==
      this.data.fields.find(({ name }) => name === "room.send_db").neutral
    );
  }

  // The rooms that tracks are sent to, as the text of their shape -> their shape.
  sharedRooms(tracks) {
    const { shape } = this.data.shared_rooms;
    const own = (values) => Object.fromEntries(shape.map((name) => [name, values[name]]));
    return new Map(
      tracks
        .filter((each) => this.isSent(each))
        .map((each) => [JSON.stringify(own(each)), own(each)])
    );
  }

  // Where rooms are shared, those who are in one room move it together, and a track that would
  // need a room too many goes to the one of the nearest reverb time.
  shareRoom(rows, row) {
    const { max, shape } = this.data.shared_rooms;
    const isSame = (a, b) => shape.every((name) => a[name] === b[name]);
    const start = this.last.rows;
    const others = this.names.map((_, i) => i).filter((i) => i !== row && this.isSent(rows[i]));
    if (this.isSent(start[row]))
      for (const i of others)
        if (isSame(start[i], start[row]))
          for (const name of shape) rows[i] = { ...rows[i], [name]: rows[row][name] };
    const rooms = [...this.sharedRooms(others.map((i) => rows[i])).values()];
    if (
      !this.isSent(rows[row]) ||
      rooms.length < max ||
      rooms.some((room) => isSame(room, rows[row]))
    )
      return;
    const away = (room) => Math.abs(Math.log(room["room.time_s"] / rows[row]["room.time_s"]));
    rows[row] = { ...rows[row], ...rooms.reduce((a, b) => (away(b) < away(a) ? b : a)) };
  }

  commit() {
    if (JSON.stringify(this.now) === JSON.stringify(this.last)) return;
    this.done.push(this.last);
    this.last = this.now;
    this.undone = [];
    this.matchSoon();
  }

  step(from, to) {
    if (!from.length) return;
    to.push(this.last);
    this.now = this.last = from.pop();
    this.send();
    this.show();
    this.matchSoon();
  }

  undo() {
    this.step(this.done, this.undone);
  }

  redo() {
    this.step(this.undone, this.done);
  }

  replace(settings) {
    this.now = settings;
    this.commit();
    this.send();
    this.show();
  }

  get heard() {
    return this.isBefore ? this.before : this.now;
  }

  areHeard() {
    return this.names.map((_, row) =>
      this.soloed.size ? this.soloed.has(row) : !this.muted.has(row)
    );
  }

  send() {
    this.player.send({ settings: this.packed(this.heard) });
  }

  // Two versions are compared at one loudness: the louder one is turned down to the other.
  async match() {
    const wanted = this.before && this.find(".matched input").checked;
    const versions = wanted ? [this.before, this.last] : [];
    for (const settings of versions) {
      const key = JSON.stringify(settings);
      if (this.measured.has(key)) continue;
      const buffer = await this.player.rendered(this.packed(settings));
      const channels = [0, 1].map((c) => buffer.getChannelData(c));
      const { loudness } = this.data.algorithm;
      this.measured.set(key, ConsoleSound.measure(channels, loudness, this.data.rate_hz));
    }
    this.setLevel();
  }

  matchSoon() {
    clearTimeout(this.matching);
    if (this.player.context) this.matching = setTimeout(() => this.match(), 700);
  }

  setLevel() {
    let level = 1;
    if (this.before && this.find(".matched input").checked) {
      const found = [this.before, this.last].map((each) => this.measured.get(JSON.stringify(each)));
      if (found.every(Boolean)) {
        const lowest = Math.min(...found.map(({ loudness_lufs }) => loudness_lufs));
        const gains = found.map(({ loudness_lufs }) => lowest - loudness_lufs);
        const peaks = found.map(({ peak }, i) => peak * ConsoleSound.factorOf(gains[i]));
        level = ConsoleSound.factorOf(gains[this.isBefore ? 0 : 1]) / Math.max(1, ...peaks);
      }
    }
    this.level = level;
    this.player.setLevel(level);
  }

  makeStrips() {
    const { makeFader, makeKnob, makeSmallCompression, makeSmallCurve, make } = ConsoleControls;
    const { algorithm, rate_hz } = this.data;
    this.strips = this.rows.map((name, row) => {
      const fields = this.fieldsOf(row);
      const byName = Object.fromEntries(fields.map((field) => [field.name, field]));
      const curve = makeSmallCurve(fields, algorithm, rate_hz);
      const dynamics = makeSmallCompression(algorithm);
      const head = make("button.head", {
        type: "button",
        "aria-label": `${name}: show its settings`,
      });
      head.append(make("span.name", {}, name), curve.element, dynamics.element, make("span.notes"));
      head.addEventListener("click", () => {
        this.choose(row);
        this.find(".inspector").scrollIntoView({ block: "nearest", behavior: "smooth" });
      });
      const element = make("div.strip", { role: "group", "aria-label": name }, head);
      element.style.setProperty("--track", this.colourOf(row));
      const change = (setting) => (value, isFinal) =>
        this.change(row, { [setting]: value }, isFinal);
      const pan = byName.pan && makeKnob(byName.pan, name, change("pan"));
      const level = byName.fader_db ?? byName.output_db;
      const fader = makeFader(level, name, change(level.name));
      const buttons = make("div.buttons");
      if (row < this.names.length) {
        for (const [kind, rows] of [
          ["solo", this.soloed],
          ["mute", this.muted],
        ]) {
          const button = make(
            `button.${kind}`,
            { type: "button", "aria-pressed": "false" },
            kind[0].toUpperCase()
          );
          button.setAttribute("aria-label", `${kind} ${name}`);
          button.title = kind;
          button.addEventListener("click", () => this.toggle(rows, row, button));
          buttons.append(button);
        }
      } else element.classList.add("master");
      element.append(pan ? pan.element : make("div.knob"), fader.element, buttons);
      this.find(".strips").append(element);
      return { element, head, curve, dynamics, pan, fader, level: level.name };
    });
  }

  toggle(rows, row, button) {
    if (!rows.delete(row)) rows.add(row);
    button.setAttribute("aria-pressed", String(rows.has(row)));
    this.player.send({ areHeard: this.areHeard() });
    const areHeard = this.areHeard();
    this.strips.forEach(({ element }, i) =>
      element.classList.toggle("unheard", areHeard[i] === false)
    );
  }

  // Show all settings of a row.
  choose(row) {
    const { make, makeCompression, makeEqualiser, makeInput, makeKnob } = ConsoleControls;
    const { algorithm, rate_hz } = this.data;
    this.chosen = row;
    const [name, fields] = [this.rows[row], this.fieldsOf(row)];
    this.strips.forEach(({ element, head }, i) => {
      element.classList.toggle("chosen", i === row);
      head.setAttribute("aria-pressed", String(i === row));
    });
    const change = (field) => (value, isFinal) =>
      this.change(row, { [field.name]: value }, isFinal);
    const shown = []; // functions that show values and those before
    const panel = (title, ...children) => {
      const heading = make("h3", {}, title);
      return make("section.panel", {}, heading, make("div.content", {}, ...children));
    };
    const knobs = (wanted) =>
      wanted.map((field) => {
        const knob = makeKnob(field, name, change(field));
        shown.push((values, old) => knob.show(values[field.name], old?.[field.name]));
        return knob.element;
      });
    const equaliser = makeEqualiser(fields, algorithm, rate_hz, name, (values, isFinal) =>
      this.change(row, values, isFinal)
    );
    const compression = makeCompression(algorithm);
    shown.push(equaliser.show, compression.show);
    const bands = make("div.bands");
    ConsoleSound.bandsOf(fields).forEach((band, i) => {
      const cells = ["freq", "gain", "q"]
        .filter((key) => band[key])
        .map((key) => {
          const field = fields.find((each) => each.name === band[key]);
          const input = makeInput(field, `${name} ${field.title}`, change(field));
          input.element.title = `${field.title}: ${field.range_text}`;
          shown.push((values) => input.show(values[field.name]));
          return make("label", {}, make("span", {}, key === "q" ? "Q" : key), input.element);
        });
      bands.append(make("div.band", {}, make("b", {}, `${i + 1} ${band.kind}`), ...cells));
    });
    // Level and pan stand in the strip.
    const own = fields.filter(
      (field) => field.name !== "pan" && field.name !== this.strips[row].level
    );
    const titles = [...new Set(own.map((field) => field.panel))];
    const panels = [panel("Equaliser", equaliser.element, bands)];
    panels[0].classList.add("wide");
    for (const title of titles.filter((each) => each !== "Equaliser")) {
      const content = make("div.knobs", {}, ...knobs(own.filter((field) => field.panel === title)));
      const isCompressor = title === "Compressor";
      panels.push(panel(title, ...(isCompressor ? [compression.element] : []), content));
      panels[panels.length - 1].classList.toggle("broad", isCompressor);
    }
    const title = make("h2", {}, make("span.colour"), name);
    const inspector = this.find(".inspector");
    inspector.style.setProperty("--track", this.colourOf(row));
    inspector.replaceChildren(title, make("div.panels", {}, ...panels));
    this.inspected = { shown, equaliser, compression };
    this.player.send({ focus: row });
    this.show();
  }

  // Draw everything as it is. What is heard before is drawn beside it in dashes.
  show() {
    const old = this.before;
    this.strips.forEach((strip, row) => {
      const values = this.now.rows[row];
      const earlier = old?.rows[row];
      strip.curve.show(values, earlier);
      strip.dynamics.show(values, earlier);
      strip.pan?.show(values.pan, earlier?.pan);
      strip.fader.show(values[strip.level], earlier?.[strip.level]);
      strip.head.querySelector(".notes").replaceChildren(...this.notesOf(row));
    });
    const [values, earlier] = [this.now, old].map((each) => each?.rows[this.chosen]);
    for (const show of this.inspected?.shown ?? []) show(values, earlier);
    this.find(".undo").disabled = !this.done.length;
    this.find(".redo").disabled = !this.undone.length;
    this.box.classList.toggle("hears-before", this.isBefore);
  }

  // What has no room to be drawn in a strip, in few words.
  notesOf(row) {
    const { make, textOf } = ConsoleControls;
    const values = this.now.rows[row];
    const text = (name) =>
      textOf(
        this.fieldsOf(row).find((field) => field.name === name),
        values[name]
      );
    const isCompressed = values["comp.slope"] !== 0;
    const notes = isCompressed
      ? [
          `${text("comp.slope")}, knee ${text("comp.knee_db")}`,
          `${text("comp.attack_ms")} / ${text("comp.release_ms")}`,
        ]
      : ["no compressor"];
    if (row < this.names.length) {
      const isDriven = values["drive.mix"] > 0;
      notes.push(isDriven ? `drive ${text("drive.drive_db")} × ${text("drive.mix")}` : "no drive");
      const hasRoom = text("room.send_db") !== "off";
      notes.push(hasRoom ? `room ${text("room.send_db")}, ${text("room.time_s")}` : "no room");
      notes.push(`width ${text("width")}`);
    }
    return notes.map((each) => make(each.startsWith("no ") ? "small.none" : "small", {}, each));
  }

  bindTransport() {
    const { player } = this;
    const [play, position, loop] = [".play", ".position", ".looped input"].map((each) =>
      this.find(each)
    );
    play.addEventListener("click", () => this.setPlaying(!player.isPlaying));
    const sendLoop = () => player.send({ loop: loop.checked ? [0, this.data.num_samples] : null });
    loop.addEventListener("change", sendLoop);
    sendLoop();
    position.addEventListener("input", () => {
      player.send({ seek: Math.round((Number(position.value) / 1000) * this.data.num_samples) });
      this.showTime();
    });
    for (const choice of this.box.querySelectorAll(".versions input"))
      choice.addEventListener("change", () => this.hearBefore(choice.value === "before"));
    this.find(".matched input")?.addEventListener("change", () => this.match());
    player.send({ settings: this.packed(this.now), areHeard: this.areHeard() });
    player.listener = (message) => this.showMeters(message);
    this.showTime();
  }

  async setPlaying(wanted) {
    const { player } = this;
    if (typeof AudioWorkletNode === "undefined") return;
    if (wanted) {
      const isFirst = !player.context;
      if (player.position >= this.data.num_samples) player.send({ seek: 0 });
      this.box.setAttribute("aria-busy", "true");
      await player.play();
      this.box.setAttribute("aria-busy", "false");
      if (isFirst) this.match();
      requestAnimationFrame(() => this.follow());
    } else player.pause();
    this.showPlaying();
  }

  showPlaying() {
    const play = this.find(".play");
    play.textContent = this.player.isPlaying ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(this.player.isPlaying));
  }

  hearBefore(wanted) {
    this.isBefore = wanted;
    const choice = this.find(`.versions input[value="${wanted ? "before" : "after"}"]`);
    if (choice) choice.checked = true;
    this.send();
    this.setLevel();
    this.box.classList.toggle("hears-before", wanted);
  }

  follow() {
    const { player } = this;
    this.showTime();
    if (player.isPlaying) {
      this.levels ??= new Float32Array(player.spectrum.frequencyBinCount);
      player.spectrum.getFloatFrequencyData(this.levels);
      this.inspected.equaliser.showSpectrum(this.levels);
      requestAnimationFrame(() => this.follow());
    } else this.showPlaying();
  }

  showTime() {
    const { num_samples, rate_hz, start_s } = this.data;
    const at = Math.max(0, Math.min(this.player.position, num_samples));
    this.find(".position").value = String((1000 * at) / num_samples);
    this.find(".time").textContent = `${(start_s + at / rate_hz).toFixed(1)} s`;
  }

  // Meters fall slowly, so that they can be read.
  showMeters({ meters }) {
    const { isPlaying } = this.player;
    meters.forEach(([left, right, gain_db], row) => {
      const { fader, dynamics } = this.strips[row];
      this.fallen ??= this.rows.map(() => [-60, -60]);
      const own = row < this.names.length ? 1 : (this.level ?? 1);
      const levels_db = [left, right].map((peak) => 20 * Math.log10(Math.max(own * peak, 1e-6)));
      this.fallen[row] = levels_db.map((level_db, c) =>
        Math.max(level_db, this.fallen[row][c] - 1.2)
      );
      fader.showLevels(isPlaying ? this.fallen[row] : [-60, -60]);
      dynamics.showGain(isPlaying ? gain_db : 0);
      if (row === this.chosen) this.inspected.compression.showGain(isPlaying ? gain_db : 0);
    });
  }

  bindFiles() {
    this.find(".undo").addEventListener("click", () => this.undo());
    this.find(".redo").addEventListener("click", () => this.redo());
    this.find(".save").addEventListener("click", () => this.save());
    this.find(".load").addEventListener("click", () => this.find(".file").click());
    this.find(".file").addEventListener("change", ({ target }) => {
      this.load(target.files[0]);
      target.value = "";
    });
    const { box } = this;
    const drag = (isOver) => (event) => {
      event.preventDefault();
      box.classList.toggle("receives", isOver);
    };
    box.addEventListener("dragover", drag(true));
    box.addEventListener("dragleave", drag(false));
    box.addEventListener("drop", (event) => {
      drag(false)(event);
      this.load(event.dataTransfer.files[0]);
    });
  }

  save() {
    const text = `${JSON.stringify(this.writeSettings(this.now), null, 2)}\n`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "settings.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async load(file) {
    if (!file) return;
    try {
      this.replace(this.readSettings(JSON.parse(await file.text())));
      this.tell(`${file.name} is loaded`);
    } catch (error) {
      this.tell(`${file.name}: ${error.message}`);
    }
  }

  tell(text) {
    this.find(".told").textContent = text;
  }

  // Ctrl Z and Ctrl Shift Z; space plays, B switches between before and after.
  bindKeys() {
    this.box.addEventListener("keydown", (event) => {
      const isTyping = event.target.matches("input.value");
      const key = event.key.toLowerCase();
      if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y") && !isTyping) {
        event.preventDefault();
        if (key === "y" || event.shiftKey) this.redo();
        else this.undo();
      } else if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      else if (key === " " && !event.target.matches("button, input")) {
        event.preventDefault();
        this.setPlaying(!this.player.isPlaying);
      } else if (key === "b" && this.before) this.hearBefore(!this.isBefore);
    });
  }
}

for (const box of document.querySelectorAll(".desk")) box.desk = new ConsoleDesk(box);
