// Controls of the console: knobs, faders, curves. Each shows a value and reports changes.
"use strict";

const ConsoleControls = (() => {
  const { above_db, bandsOf, byNames, design, offScale, onScale, response_db } = ConsoleSound;
  const SVG = "http://www.w3.org/2000/svg";
  const KNOB_DEG = 270;
  const DRAG_PX = 180; // of a knob from end to end
  // dB -> height of a fader and its meter: most of the way for the levels around 0 dB.
  const TAPER = [
    [-60, 0],
    [-40, 0.12],
    [-20, 0.36],
    [-10, 0.53],
    [0, 0.71],
    [12, 0.88],
    [24, 1],
  ];
  const SCALE_DB = [-40, -20, -10, -5, 0, 6, 12, 24];
  const CURVE_DB = 18;
  const LOWEST_HZ = 20;
  const HIGHEST_HZ = 20000;

  function make(tag, attributes = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const element = document.createElement(name);
    return filled(element, classes, attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    return filled(document.createElementNS(SVG, name), classes, attributes, children);
  }

  function filled(element, classes, attributes, children) {
    element.classList.add(...classes);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // Where a value lies in its range, 0 to 1 on its scale, and back.
  function positionOf(field, value) {
    const [low, high, at] = [field.low, field.high, value].map((v) => onScale(field, v));
    return (at - low) / (high - low);
  }

  function valueAt(field, position) {
    const [low, high] = [field.low, field.high].map((value) => onScale(field, value));
    return rounded(field, offScale(field, low + clamp(position, 0, 1) * (high - low)));
  }

  // A value as a person would write it, within its range.
  function rounded(field, value) {
    const digits = field.unit.startsWith("dB") ? 1 : 2;
    const near = field.scale === "log" ? value.toPrecision(3) : value.toFixed(digits);
    return clamp(Number(near), field.low, field.high);
  }

  const signed = (number, digits) =>
    (Number(number.toFixed(digits)) > 0 ? "+" : "") + number.toFixed(digits).replace("-", "−");
  const short = (number) => String(Number(number.toPrecision(3)));
  const isOff = (field, value) => field.ends_off && value === field.neutral;

  // A value with its unit.
  function textOf(field, value) {
    if (isOff(field, value)) return "off";
    if (field.name === "comp.slope")
      return value >= 0 ? `${(1 / (1 - value)).toFixed(1)}:1` : `1:${(1 - value).toFixed(1)}`;
    if (field.name === "pan") {
      const share = Math.round(100 * Math.abs(value));
      return share === 0 ? "C" : `${value < 0 ? "L" : "R"} ${share}`;
    }
    if (field.unit.startsWith("dB")) {
      const number = field.low < 0 ? signed(value, 1) : value.toFixed(1);
      return `${number} ${field.unit}`;
    }
    if (field.unit === "Hz" && value >= 1000) return `${short(value / 1000)} kHz`;
    if (field.unit === "1") return value.toFixed(2);
    return `${short(value)} ${field.unit}`;
  }

  // What a person has typed, or null.
  function parse(field, text) {
    const plain = text.trim().replace("−", "-").replace(",", ".").toLowerCase();
    if (plain === "off" && field.ends_off) return field.neutral;
    if (field.name === "pan" && plain === "c") return 0;
    const side = field.name === "pan" && /^([lr])\s*(\d+)/.exec(plain);
    if (side) return within(field, ((side[1] === "l" ? -1 : 1) * Number(side[2])) / 100);
    const found = /^([-+]?[\d.]+(?:e-?\d+)?)\s*(k?)/.exec(plain);
    if (!found || !Number.isFinite(Number(found[1]))) return null;
    const number = Number(found[1]) * (found[2] ? 1000 : 1);
    if (field.name === "pan" && Math.abs(number) > 1) return within(field, number / 100);
    if (field.name !== "comp.slope") return within(field, number);
    const other = /^[\d.]+\s*:\s*([\d.]+)/.exec(plain);
    const ratio = other ? number / Number(other[1]) : number;
    return ratio > 0 ? within(field, 1 - 1 / ratio) : null;
  }

  const within = (field, value) => clamp(value, field.low, field.high);

  // Let an element be dragged: `begin` gives what `move` gets besides the way in pixels.
  function draggable(element, { begin, move, end }) {
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      element.focus({ preventScroll: true });
      element.setPointerCapture(event.pointerId);
      const [x, y] = [event.clientX, event.clientY];
      const start = begin(event);
      const onMove = (now) => move(start, now.clientX - x, now.clientY - y, now);
      const onEnd = () => {
        element.removeEventListener("pointermove", onMove);
        element.removeEventListener("lostpointercapture", onEnd);
        end();
      };
      element.addEventListener("pointermove", onMove);
      element.addEventListener("lostpointercapture", onEnd);
    });
  }

  // Arrows and their kin move a position; `step` is added for an arrow.
  function keyStep(event) {
    const fine = event.shiftKey ? 0.1 : 1;
    const steps = {
      ArrowUp: 1,
      ArrowRight: 1,
      ArrowDown: -1,
      ArrowLeft: -1,
      PageUp: 10,
      PageDown: -10,
    };
    return event.key in steps ? (fine * steps[event.key]) / 100 : 0;
  }

  // Pointer, keyboard and screen readers for a control of one setting.
  // `change(value, isFinal)` is told what a person does.
  function bindSlider(element, field, name, { position, value, length, axis, change }) {
    let now = field.neutral;
    const set = (next, isFinal) => change(within(field, next), isFinal);
    draggable(element, {
      begin: () => position(now),
      move: (start, x, y, event) => {
        const fine = event.shiftKey ? 0.1 : 1;
        const way = axis === "y" ? -y : x - y;
        set(value(start + (fine * way) / length()), false);
      },
      end: () => set(now, true),
    });
    element.addEventListener("dblclick", () => set(field.neutral, true));
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = keyStep(event);
      const ends = {
        Home: field.low,
        End: field.high,
        Delete: field.neutral,
        Backspace: field.neutral,
      };
      if (!step && !(event.key in ends)) return;
      event.preventDefault();
      event.stopPropagation();
      set(step ? moved(position(now), step) : ends[event.key], true);
    });
    // A step that is smaller than what is written moves by that.
    const moved = (from, step) => {
      const next = value(from + step);
      const least = field.unit.startsWith("dB") ? 0.1 : 0.01;
      return next === now && field.scale === "linear" ? now + Math.sign(step) * least : next;
    };
    const attributes = {
      role: "slider",
      tabindex: "0",
      "aria-label": name,
      "aria-valuemin": field.low,
      "aria-valuemax": field.high,
      "aria-orientation": "vertical",
      title: `${name}: ${field.range_text}. Double click: ${textOf(field, field.neutral)}`,
    };
    for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text);
    return (next) => {
      now = next;
      element.setAttribute("aria-valuenow", next);
      element.setAttribute("aria-valuetext", textOf(field, next));
    };
  }

  // A field to type a value into.
  function makeInput(field, name, change) {
    const input = make("input.value", {
      "aria-label": `${name}, number`,
      autocomplete: "off",
      size: 7,
    });
    let now = field.neutral;
    input.addEventListener("focus", () => input.select());
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") input.blur();
      if (event.key === "Escape") {
        input.value = textOf(field, now);
        input.blur();
      }
    });
    input.addEventListener("change", () => {
      const value = parse(field, input.value);
      input.value = textOf(field, now);
      if (value !== null) change(value, true);
    });
    const show = (value) => {
      now = value;
      if (document.activeElement !== input) input.value = textOf(field, value);
    };
    input.addEventListener("blur", () => (input.value = textOf(field, now)));
    return { element: input, show };
  }

  const polar = (degrees, radius) => {
    const angle = ((degrees - 90) * Math.PI) / 180;
    return `${(20 + radius * Math.cos(angle)).toFixed(2)} ${(20 + radius * Math.sin(angle)).toFixed(2)}`;
  };

  function arc(from, to, radius) {
    const [a, b] = [Math.min(from, to), Math.max(from, to)].map((at) => KNOB_DEG * (at - 0.5));
    return `M${polar(a, radius)}A${radius} ${radius} 0 ${b - a > 180 ? 1 : 0} 1 ${polar(b, radius)}`;
  }

  // A knob with its label, and its value to type.
  function makeKnob(field, where, change) {
    const name = `${where} ${field.title}`;
    const [way, pointer, mark] = ["path.way", "path.pointer", "path.mark"].map((tag) => draw(tag));
    const dial = draw("circle.dial", { cx: 20, cy: 20, r: 11.5 });
    const ring = draw("path.ring", { d: arc(0, 1, 16) });
    const face = draw(
      "svg",
      { viewBox: "0 0 40 38", "aria-hidden": "true" },
      ring,
      way,
      mark,
      dial,
      pointer
    );
    const knob = make("div.dial", {}, face);
    const showSlider = bindSlider(knob, field, name, {
      position: (value) => positionOf(field, value),
      value: (position) => valueAt(field, position),
      length: () => DRAG_PX,
      change,
    });
    const input = makeInput(field, name, change);
    const label = make("span.label", {}, field.label);
    const element = make("div.knob", {}, label, knob, input.element);
    const neutral = positionOf(field, field.neutral);
    const show = (value, before) => {
      showSlider(value);
      input.show(value);
      const at = positionOf(field, value);
      const turned = KNOB_DEG * (at - 0.5);
      way.setAttribute("d", at === neutral ? "" : arc(neutral, at, 16));
      pointer.setAttribute("d", `M${polar(turned, 5)}L${polar(turned, 11)}`);
      const old = before === undefined ? null : KNOB_DEG * (positionOf(field, before) - 0.5);
      mark.setAttribute("d", old === null ? "" : `M${polar(old, 14)}L${polar(old, 18.5)}`);
    };
    return { element, show };
  }

  function heightOf(level_db) {
    const at = clamp(level_db, TAPER[0][0], TAPER[TAPER.length - 1][0]);
    const i = TAPER.findIndex(([db]) => db >= at);
    if (i <= 0) return 0;
    const [[db0, y0], [db1, y1]] = [TAPER[i - 1], TAPER[i]];
    return y0 + ((at - db0) / (db1 - db0)) * (y1 - y0);
  }

  function levelAt(height) {
    const at = clamp(height, 0, 1);
    const i = Math.max(
      1,
      TAPER.findIndex(([, y]) => y >= at)
    );
    const [[db0, y0], [db1, y1]] = [TAPER[i - 1], TAPER[i]];
    return db0 + ((at - y0) / (y1 - y0)) * (db1 - db0);
  }

  // A fader with its scale, beside a meter of two channels.
  function makeFader(field, where, change) {
    const [cap, mark] = [make("div.cap"), make("div.before-mark")];
    const slot = make("div.slot", {}, mark, cap);
    const bars = [0, 1].map(() => make("i"));
    const meter = make("div.meter", { "aria-hidden": "true" }, ...bars);
    const scale = make("div.scale", { "aria-hidden": "true" });
    for (const level_db of SCALE_DB) {
      const tick = make("span", {}, String(Math.abs(level_db)));
      tick.style.bottom = `${100 * heightOf(level_db)}%`;
      if (level_db === 0) tick.classList.add("zero");
      scale.append(tick);
    }
    const showSlider = bindSlider(slot, field, `${where} ${field.title}`, {
      position: heightOf,
      value: (height) => rounded(field, levelAt(height)),
      length: () => slot.clientHeight,
      axis: "y",
      change,
    });
    const input = makeInput(field, `${where} ${field.title}`, change);
    const body = make("div.throw", {}, scale, slot, meter);
    const show = (value, before) => {
      showSlider(value);
      input.show(value);
      cap.style.bottom = `${100 * heightOf(value)}%`;
      mark.hidden = before === undefined;
      if (before !== undefined) mark.style.bottom = `${100 * heightOf(before)}%`;
    };
    const showLevels = (levels_db) => {
      bars.forEach((bar, c) => {
        bar.style.clipPath = `inset(${(100 * (1 - heightOf(levels_db[c]))).toFixed(1)}% 0 0 0)`;
        bar.classList.toggle("over", levels_db[c] > 0);
      });
    };
    showLevels([-60, -60]);
    return { element: make("div.fader", {}, body, input.element), show, showLevels };
  }

  const xOf = (freq_hz, width) =>
    (width * Math.log(freq_hz / LOWEST_HZ)) / Math.log(HIGHEST_HZ / LOWEST_HZ);
  const freqAt = (x, width) => LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** (x / width);

  // Curve of an equaliser as points of a path; gains beyond the drawing are cut off.
  function curveOf(bands, values, { limits, rate_hz, width, height }) {
    const sections = bands.map((band) => design(band, values, limits, rate_hz));
    const points = [];
    for (let x = 0; x <= width; x += width / 160) {
      const freq_hz = Math.min(freqAt(x, width), 0.499 * rate_hz);
      const gain_db = sections.reduce((sum, each) => sum + response_db(each, freq_hz, rate_hz), 0);
      points.push(`${x.toFixed(1)} ${yOf(gain_db, height).toFixed(1)}`);
    }
    return points;
  }

  const yOf = (gain_db, height) => clamp((height / 2) * (1 - gain_db / CURVE_DB), -4, height + 4);

  // The small drawing in a strip.
  function makeSmallCurve(fields, algorithm, rate_hz) {
    const [width, height] = [120, 44];
    const bands = bandsOf(fields);
    const [fill, line, before] = ["path.fill", "path.line", "path.before"].map((tag) => draw(tag));
    const zero = draw("path.grid", { d: `M0 ${height / 2}H${width}` });
    const element = draw(
      "svg.small",
      { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      ...[zero, fill, before, line]
    );
    const shape = { limits: algorithm.equaliser, rate_hz, width, height };
    const show = (values, old) => {
      const points = curveOf(bands, values, shape).join("L");
      line.setAttribute("d", `M${points}`);
      fill.setAttribute("d", `M0 ${height / 2}L${points}L${width} ${height / 2}Z`);
      before.setAttribute("d", old ? `M${curveOf(bands, old, shape).join("L")}` : "");
    };
    return { element, show };
  }

  // The large drawing of an equaliser: its curve, and a handle for each band.
  function makeEqualiser(fields, algorithm, rate_hz, where, change) {
    const [width, height] = [640, 250];
    const bands = bandsOf(fields);
    const byName = Object.fromEntries(fields.map((field) => [field.name, field]));
    const tags = ["path.spectrum", "path.fill", "path.before", "path.line"];
    const [spectrum, fill, before, line] = tags.map((tag) => draw(tag));
    const [grid, labels] = [draw("g.grid"), make("div.labels", { "aria-hidden": "true" })];
    for (const freq_hz of [30, 50, 100, 200, 500, 1000, 2000, 5000, 10000]) {
      const x = xOf(freq_hz, width);
      const label = make("span.freq", {}, freq_hz < 1000 ? `${freq_hz}` : `${freq_hz / 1000}k`);
      label.style.left = `${(100 * x) / width}%`;
      grid.append(draw("path", { d: `M${x} 0V${height}` }));
      labels.append(label);
    }
    for (const gain_db of [-12, -6, 0, 6, 12]) {
      const y = yOf(gain_db, height);
      const label = make("span.gain", {}, gain_db ? signed(gain_db, 0) : "0 dB");
      label.style.top = `${(100 * y) / height}%`;
      grid.append(draw("path", { d: `M0 ${y}H${width}`, class: gain_db ? "" : "zero" }));
      labels.append(label);
    }
    const frame = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" };
    const drawing = draw(
      "svg.curve",
      { ...frame, "aria-hidden": "true" },
      grid,
      ...[spectrum, fill, before, line]
    );
    const handles = bands.map((band, i) => {
      const handle = make("button.handle", { type: "button" }, String(i + 1));
      bindHandle(handle, band, byName, where, () => element, change);
      return handle;
    });
    const element = make("div.graph.equaliser", {}, drawing, labels, ...handles);
    const shape = { limits: algorithm.equaliser, rate_hz, width, height };
    const show = (values, old) => {
      const points = curveOf(bands, values, shape).join("L");
      line.setAttribute("d", `M${points}`);
      fill.setAttribute("d", `M0 ${height / 2}L${points}L${width} ${height / 2}Z`);
      before.setAttribute("d", old ? `M${curveOf(bands, old, shape).join("L")}` : "");
      bands.forEach((band, i) => {
        const handle = handles[i];
        const gain_db = band.gain ? values[band.gain] : 0;
        handle.style.left = `${clamp((100 * xOf(values[band.freq], width)) / width, 1.5, 98.5)}%`;
        handle.style.top = `${(100 * yOf(gain_db, height)) / height}%`;
        handle.classList.toggle(
          "rests",
          band.gain ? gain_db === 0 : values[band.freq] === band.off
        );
        handle.values = values;
        const names = [band.freq, band.gain, band.q].filter(Boolean);
        const texts = names.map((name) => textOf(byName[name], values[name]));
        handle.setAttribute("aria-label", `${where} ${band.kind}: ${texts.join(", ")}`);
        handle.title = `${band.kind}: ${texts.join(", ")}`;
      });
    };
    // Levels in dB of the bins of a transform.
    const showSpectrum = (levels_db) => {
      if (!levels_db) return spectrum.setAttribute("d", "");
      const bin_hz = rate_hz / 2 / levels_db.length;
      const points = [];
      for (let x = 0; x < width; x += 5) {
        const [first, last] = [x, x + 5].map((at) => Math.round(freqAt(at, width) / bin_hz));
        let level_db = -160;
        for (
          let bin = first;
          bin <= Math.min(Math.max(first, last - 1), levels_db.length - 1);
          bin++
        )
          level_db = Math.max(level_db, levels_db[bin]);
        points.push(`${x} ${clamp((-(level_db + 10) / 90) * height, 0, height + 2).toFixed(1)}`);
      }
      spectrum.setAttribute("d", `M0 ${height + 2}L${points.join("L")}L${width} ${height + 2}Z`);
    };
    return { element, show, showSpectrum };
  }

  // A handle moves frequency and gain; with Alt, or by the wheel, the quality.
  function bindHandle(handle, band, byName, where, graph, change) {
    const [freq, gain, q] = [band.freq, band.gain, band.q].map((name) => byName[name]);
    const moved = (values, name, value) => ({ ...values, [name]: value });
    let last = null;
    const apply = (values, isFinal) => {
      last = values;
      change(values, isFinal);
    };
    draggable(handle, {
      begin: () => {
        last = null;
        return Object.fromEntries(
          [freq, gain, q].filter(Boolean).map((f) => [f.name, handle.values[f.name]])
        );
      },
      move: (start, x, y, event) => {
        const { clientWidth, clientHeight } = graph();
        if (event.altKey && q)
          return apply(
            moved(start, q.name, valueAt(q, positionOf(q, start[q.name]) - y / 150)),
            false
          );
        const at = xOf(start[freq.name], clientWidth) + x;
        const next = { ...start, [freq.name]: rounded(freq, freqAt(at, clientWidth)) };
        const way_db = (-y / clientHeight) * 2 * CURVE_DB;
        if (gain) next[gain.name] = rounded(gain, start[gain.name] + way_db);
        apply(next, false);
      },
      end: () => last && apply(last, true),
    });
    handle.addEventListener("dblclick", () => {
      const rested = gain ?? freq;
      apply({ [rested.name]: rested.neutral }, true);
    });
    const turnQ = (step) =>
      apply({ [q.name]: valueAt(q, positionOf(q, handle.values[q.name]) + step) }, true);
    handle.addEventListener(
      "wheel",
      (event) => {
        if (!q || document.activeElement !== handle) return;
        event.preventDefault();
        turnQ(-Math.sign(event.deltaY) * 0.03);
      },
      { passive: false }
    );
    handle.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey) return;
      const { key } = event;
      const isSide = key === "ArrowLeft" || key === "ArrowRight";
      const step = keyStep(event);
      if (!step && key !== "Delete" && key !== "Backspace") return;
      event.preventDefault();
      event.stopPropagation();
      if (!step) apply({ [(gain ?? freq).name]: (gain ?? freq).neutral }, true);
      else if (event.altKey) q && turnQ(2 * step);
      else if (isSide || !gain) {
        const at = positionOf(freq, handle.values[freq.name]) + step;
        apply({ [freq.name]: valueAt(freq, at) }, true);
      } else apply({ [gain.name]: rounded(gain, handle.values[gain.name] + 50 * step) }, true);
    });
  }

  // The static curve of a compressor, input to output in dBFS.
  function compressionPath(values, size, { min_knee_db }) {
    const points = [];
    for (let level_db = -60; level_db <= 0; level_db += 1) {
      const over = above_db(
        level_db,
        values["comp.threshold_db"],
        values["comp.knee_db"],
        min_knee_db
      );
      const out_db = level_db - values["comp.slope"] * over;
      points.push(
        `${((1 + level_db / 60) * size).toFixed(1)} ${((-out_db / 60) * size).toFixed(1)}`
      );
    }
    return `M${points.join("L")}`;
  }

  function makeCompression(algorithm) {
    const size = 150;
    const [before, line] = ["path.before", "path.line"].map((tag) => draw(tag));
    const grid = draw("g.grid", {}, draw("path", { d: `M0 ${size}L${size} 0`, class: "zero" }));
    for (const level_db of [-48, -36, -24, -12]) {
      const at = (1 + level_db / 60) * size;
      grid.append(draw("path", { d: `M${at} 0V${size}M0 ${size - at}H${size}` }));
      grid.append(draw("text", { x: at + 2, y: size - 3 }, String(level_db).replace("-", "−")));
    }
    const edge = draw("path.edge");
    const drawing = draw(
      "svg.curve",
      { viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" },
      grid,
      edge,
      before,
      line
    );
    const bar = make("i");
    const number = make("output", { "aria-hidden": "true" });
    const hanging = make("div.reduction", { title: "gain of the compressor" }, bar);
    const element = make("div.graph.compression", {}, drawing, hanging, number);
    const show = (values, old) => {
      line.setAttribute("d", compressionPath(values, size, algorithm.compressor));
      before.setAttribute("d", old ? compressionPath(old, size, algorithm.compressor) : "");
      const at = ((1 + values["comp.threshold_db"] / 60) * size).toFixed(1);
      edge.setAttribute("d", `M${at} 0V${size}`);
      line.classList.toggle("rests", values["comp.slope"] === 0);
    };
    const showGain = (gain_db) => {
      showReduction(bar, gain_db);
      number.textContent = Math.abs(gain_db) < 0.05 ? "" : `${signed(gain_db, 1)} dB`;
    };
    return { element, show, showGain };
  }

  function makeSmallCompression(algorithm) {
    const [before, line] = ["path.before", "path.line"].map((tag) => draw(tag));
    const diagonal = draw("path.grid", { d: "M0 44L44 0" });
    const drawing = draw(
      "svg.small.square",
      { viewBox: "0 0 44 44", "aria-hidden": "true" },
      diagonal,
      before,
      line
    );
    const bar = make("i");
    const element = make("div.dynamics", {}, drawing, make("div.reduction", {}, bar));
    const show = (values, old) => {
      line.setAttribute("d", compressionPath(values, 44, algorithm.compressor));
      line.classList.toggle("rests", values["comp.slope"] === 0);
      before.setAttribute("d", old ? compressionPath(old, 44, algorithm.compressor) : "");
    };
    return { element, show, showGain: (gain_db) => showReduction(bar, gain_db) };
  }

  // A bar that hangs down by up to 20 dB, or stands up where the gain rises.
  function showReduction(bar, gain_db) {
    const share = clamp(Math.abs(gain_db) / 20, 0, 1);
    bar.style.transform = `scaleY(${share.toFixed(3)})`;
    bar.style.transformOrigin = gain_db > 0 ? "bottom" : "top";
  }

  return {
    ...{ byNames, makeCompression, makeEqualiser, makeFader, makeInput, makeKnob },
    ...{ make, makeSmallCompression, makeSmallCurve, textOf },
  };
})();
