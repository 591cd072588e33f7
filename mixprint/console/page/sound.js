// The console's sound, in blocks: what mixprint/console/rendering.py computes, in JavaScript.
//
// Settings may move while it plays. They then follow their targets within some hundredths of a
// second, without clicks; once they rest, all is computed as in Python, in double precision.
// The page uses the designs for its curves, and an AudioWorklet uses all of it.
"use strict";

const ConsoleSound = (() => {
  const SMOOTHING_S = 0.015;
  const NEAR_TARGET = 2e-4; // of a range: there a setting has arrived
  const QUIET = 1e-30; // below it, sounds are made zero: denormal numbers are slow
  const [CHANNEL_SUM_OFFSET_LU, GATE_LU] = [-0.691, -10]; // of ITU-R BS.1770-4
  const BAND_DB = 140; // the filters of a room's bands are cut off so far down

  const factorOf = (level_db) => 10 ** (level_db / 20);
  const byNames = (fields, values) => Object.fromEntries(fields.map((f, i) => [f.name, values[i]]));
  const onScale = (field, value) => (field.scale === "log" ? Math.log(value) : value);
  const offScale = (field, number) => (field.scale === "log" ? Math.exp(number) : number);

  // Bands of the equaliser of a table of settings, from low to high.
  function bandsOf(fields) {
    const names = fields.map((field) => field.name).filter((name) => name.startsWith("eq."));
    const bands = new Map();
    for (const name of names) {
      const [, part, last] = name.split(".");
      const band = part.replace(/_hz$/, "");
      if (!bands.has(band)) bands.set(band, { name: band });
      const key = last ? last.replace(/_(db|hz)$/, "") : "freq";
      bands.get(band)[key] = name;
    }
    for (const band of bands.values()) {
      if (band.q) band.kind = "bell";
      else band.kind = band.gain ? `${band.name} shelf` : band.name.replace("pass", "-pass");
      band.off = band.gain ? null : fields.find((field) => field.name === band.freq).neutral;
    }
    const neutral = (band) => fields.find((field) => field.name === band.freq).neutral;
    return [...bands.values()].sort((a, b) => neutral(a) - neutral(b));
  }

  // Coefficients b0 b1 b2 a1 a2 of a band (R. Bristow-Johnson's audio EQ cookbook).
  function design(band, values, limits, rate_hz) {
    const freq_hz = values[band.freq];
    if (freq_hz === band.off) return [1, 0, 0, 0, 0];
    const omega = 2 * Math.PI * Math.min(freq_hz / rate_hz, limits.highest_frequency);
    const alpha = Math.sin(omega) / (2 * (band.q ? values[band.q] : limits.q));
    const isHigh = band.kind.startsWith("high");
    const cosine = Math.cos(omega);
    const scaled = (b, a) => [b[0] / a[0], b[1] / a[0], b[2] / a[0], a[1] / a[0], a[2] / a[0]];
    const root = band.gain ? 10 ** (values[band.gain] / 40) : 1;
    if (band.kind === "bell")
      return scaled(
        [1 + alpha * root, -2 * cosine, 1 - alpha * root],
        [1 + alpha / root, -2 * cosine, 1 - alpha / root]
      );
    const sign = isHigh ? -1 : 1;
    if (!band.gain) {
      const outer = (1 - sign * cosine) / 2;
      return scaled([outer, sign * 2 * outer, outer], [1 + alpha, -2 * cosine, 1 - alpha]);
    }
    const turned = sign * cosine;
    const slope = 2 * Math.sqrt(root) * alpha;
    const [plus, minus] = [root + 1, root - 1];
    return scaled(
      [
        root * (plus - minus * turned + slope),
        sign * 2 * root * (minus - plus * turned),
        root * (plus - minus * turned - slope),
      ],
      [
        plus + minus * turned + slope,
        sign * -2 * (minus + plus * turned),
        plus + minus * turned - slope,
      ]
    );
  }

  // Gain of a band in dB at a frequency.
  function response_db([b0, b1, b2, a1, a2], freq_hz, rate_hz) {
    const omega = (2 * Math.PI * freq_hz) / rate_hz;
    const [c1, s1, c2, s2] = [1, 2].flatMap((n) => [Math.cos(n * omega), Math.sin(n * omega)]);
    const above = (b0 + b1 * c1 + b2 * c2) ** 2 + (b1 * s1 + b2 * s2) ** 2;
    const below = (1 + a1 * c1 + a2 * c2) ** 2 + (a1 * s1 + a2 * s2) ** 2;
    return 10 * Math.log10(Math.max(above / below, 1e-20));
  }

  // How far a level is above the threshold, with a soft knee.
  function above_db(level_db, threshold_db, knee_db) {
    const over_db = level_db - threshold_db;
    if (Math.abs(over_db) < knee_db / 2) return (over_db + knee_db / 2) ** 2 / (2 * knee_db);
    return Math.max(over_db, 0);
  }

  // Values of a strip, each on the way to its target on its scale.
  class Moving {
    constructor(fields, values, share) {
      this.fields = fields;
      this.share = share; // of the way that is left, in each block
      this.values = byNames(fields, values);
      this.target = [...values];
      this.moving = new Set();
    }

    aim(values) {
      this.fields.forEach((field, i) => {
        this.target[i] = values[i];
        if (values[i] !== this.values[field.name]) this.moving.add(i);
      });
    }

    // Go on by a block; tells whether anything has moved.
    step() {
      if (!this.moving.size) return false;
      for (const i of this.moving) {
        const field = this.fields[i];
        const [now, goal] = [this.values[field.name], this.target[i]].map((v) => onScale(field, v));
        const range = onScale(field, field.high) - onScale(field, field.low);
        if (Math.abs(goal - now) < NEAR_TARGET * range) {
          this.values[field.name] = this.target[i];
          this.moving.delete(i);
        } else this.values[field.name] = offScale(field, now + this.share * (goal - now));
      }
      return true;
    }
  }

  // Second-order sections, one behind the other, on any number of channels.
  class Equaliser {
    constructor(bands, numChannels, values, { equaliser }, rate_hz) {
      Object.assign(this, { bands, limits: equaliser, rate_hz });
      this.sections = bands.map((band) => {
        const now = Float64Array.from(design(band, values, equaliser, rate_hz));
        return { now, next: now.slice(), moves: false, state: new Float64Array(2 * numChannels) };
      });
    }

    set(values) {
      this.sections.forEach((section, i) => {
        section.next.set(design(this.bands[i], values, this.limits, this.rate_hz));
        section.moves = section.next.some((value, k) => value !== section.now[k]);
      });
    }

    run(channels) {
      for (const section of this.sections) {
        const { now, next, state, moves } = section;
        const isIdentity = now[0] === 1 && now[1] === now[3] && now[2] === now[4];
        if (!moves && isIdentity && state.every((value) => value === 0)) continue;
        channels.forEach((audio, c) => this.filter(audio, now, moves ? next : now, state, 2 * c));
        if (moves) now.set(next);
        section.moves = false;
      }
    }

    filter(audio, now, next, state, at) {
      let [b0, b1, b2, a1, a2] = [now[0], now[1], now[2], now[3], now[4]];
      const moves = now !== next;
      const share = 1 / audio.length;
      let z0 = state[at];
      let z1 = state[at + 1];
      for (let t = 0; t < audio.length; t++) {
        if (moves) {
          b0 += share * (next[0] - now[0]);
          b1 += share * (next[1] - now[1]);
          b2 += share * (next[2] - now[2]);
          a1 += share * (next[3] - now[3]);
          a2 += share * (next[4] - now[4]);
        }
        const x = audio[t];
        const y = b0 * x + z0;
        z0 = b1 * x - a1 * y + z1;
        z1 = b2 * x - a2 * y;
        audio[t] = y;
      }
      state[at] = Math.abs(z0) < QUIET ? 0 : z0;
      state[at + 1] = Math.abs(z1) < QUIET ? 0 : z1;
    }
  }

  // Saturation of one channel, see mixprint/dsp/drive.py; what it gives is a block behind.
  class Drive {
    constructor({ drive, block_samples }) {
      Object.assign(this, drive);
      this.size = block_samples;
      this.held = new Float64Array(2 * this.size + this.context); // from the context before on
      this.twice = new Float64Array(2 * (this.size + this.context) - 1); // at twice the rate
      this.means = new Float64Array(this.twice.length - 1);
      this.isOn = false;
    }

    run(audio, drive_db, mixBefore, mixAfter) {
      const { size, context, held } = this;
      held.copyWithin(0, size);
      held.set(audio, size + context);
      audio.set(held.subarray(context, context + size));
      if (mixBefore === 0 && mixAfter === 0) {
        this.isOn = false;
        return;
      }
      this.means.copyWithin(0, 2 * size);
      this.fillMeans(this.isOn ? this.means.length - 2 * size : 0, factorOf(drive_db));
      this.isOn = true;
      for (let t = 0; t < size; t++) {
        let sum = 0;
        for (let k = 0; k < this.halving.length; k++)
          sum += this.halving[k] * this.means[2 * t + k];
        audio[t] += (mixBefore + ((mixAfter - mixBefore) * t) / size) * sum;
      }
    }

    // The mean of what the curve adds, between neighbours at twice the rate.
    fillMeans(first, drive) {
      const { held, twice, means, between } = this;
      const reach = between.length / 2;
      for (let u = first; u < twice.length; u++) {
        const i = u >> 1;
        if (u % 2 === 0) twice[u] = held[reach + i];
        else {
          let sum = 0;
          for (let k = 0; k < between.length; k++) sum += between[k] * held[i + 1 + k];
          twice[u] = sum;
        }
      }
      const integral = (x) => {
        const driven = Math.abs(drive * x);
        const log_cosh = driven + Math.log1p(Math.exp(-2 * driven)) - Math.LN2;
        return log_cosh / (drive * drive) - (x * x) / 2;
      };
      let last = integral(twice[first]);
      for (let m = first; m < means.length; m++) {
        const step = twice[m + 1] - twice[m];
        const next = integral(twice[m + 1]);
        if (Math.abs(drive * step) < this.near) {
          const middle = (twice[m] + twice[m + 1]) / 2;
          means[m] = Math.tanh(drive * middle) / drive - middle;
        } else means[m] = (next - last) / step;
        last = next;
      }
    }
  }

  // Gain curve of a compressor, see mixprint/dsp/compressor.py.
  class Compressor {
    constructor({ compressor, block_samples }, rate_hz) {
      Object.assign(this, compressor);
      this.block_s = block_samples / rate_hz;
      this.above_db = 0;
      this.gain = 1;
      this.curve = new Float64Array(block_samples);
    }

    run([left, right], values) {
      let peak = factorOf(this.floor_db);
      for (let t = 0; t < left.length; t++)
        peak = Math.max(peak, Math.abs(left[t]), Math.abs(right[t]));
      const level_db = 20 * Math.log10(peak);
      const [threshold_db, knee_db] = [values["comp.threshold_db"], values["comp.knee_db"]];
      const target = above_db(level_db, threshold_db, knee_db);
      const time_ms = values[target > this.above_db ? "comp.attack_ms" : "comp.release_ms"];
      const pole = Math.exp(-this.block_s / (time_ms / 1000));
      this.above_db = pole * this.above_db + (1 - pole) * target;
      const start = this.gain;
      this.gain = 10 ** ((-values["comp.slope"] * this.above_db) / 20);
      for (let t = 0; t < this.curve.length; t++)
        this.curve[t] = start + (this.gain - start) * (t / this.curve.length);
      return this.curve;
    }
  }

  // The feedback delay network of mixprint/dsp/room.py. Its shortest delay tells ahead of time what
  // it will answer.
  class Network {
    constructor({ delays, input_gain, signs }, size) {
      Object.assign(this, { delays, signs, input_gain, size, at: 0 });
      const length = 2 ** Math.ceil(Math.log2(Math.max(...delays) + 1));
      this.lines = delays.map(() => new Float64Array(length));
      this.rows = delays.map(() => new Float64Array(size));
      this.gains = new Float64Array(delays.length);
      // What each line gives to each output, through the Hadamard matrix.
      this.weights = signs.map((own) => {
        const weights = Float64Array.from(own);
        hadamard([...weights.keys()].map((i) => weights.subarray(i, i + 1)));
        return weights;
      });
    }

    setTime(time_s, rate_hz) {
      const scale = 1 / Math.sqrt(this.delays.length);
      this.delays.forEach((delay, i) => {
        this.gains[i] = scale * 10 ** ((-3 * delay) / (time_s * rate_hz));
      });
    }

    copy(other) {
      this.lines.forEach((line, i) => line.set(other.lines[i]));
      this.at = other.at;
    }

    // Read what it answers, from `ahead` samples from now on; less than the shortest delay.
    read(outputs, ahead, start, count) {
      outputs.forEach((output, c) => {
        output.fill(0, start, start + count);
        this.lines.forEach((line, i) => {
          const mask = line.length - 1;
          const from = this.at + ahead - this.delays[i];
          const weight = this.weights[c][i] * this.gains[i];
          for (let t = 0; t < count; t++) output[start + t] += weight * line[(from + t) & mask];
        });
      });
    }

    write(audio) {
      const { lines, rows, size, input_gain } = this;
      lines.forEach((line, i) => {
        const mask = line.length - 1;
        const from = this.at - this.delays[i];
        const gain = this.gains[i];
        const row = rows[i];
        for (let t = 0; t < size; t++) row[t] = gain * line[(from + t) & mask];
      });
      hadamard(rows);
      lines.forEach((line, i) => {
        const mask = line.length - 1;
        const row = rows[i];
        for (let t = 0; t < size; t++) {
          const value = row[t] + input_gain * audio[t];
          line[(this.at + t) & mask] = Math.abs(value) < QUIET ? 0 : value;
        }
      });
      this.at += size;
    }
  }

  // Multiply rows by the Hadamard matrix, in place.
  function hadamard(rows) {
    for (let half = 1; half < rows.length; half *= 2)
      for (let i = 0; i < rows.length; i++) {
        if (i & half) continue;
        const [upper, lower] = [rows[i], rows[i + half]];
        for (let t = 0; t < upper.length; t++) {
          const sum = upper[t] + lower[t];
          lower[t] = upper[t] - lower[t];
          upper[t] = sum;
        }
      }
  }

  // A filter without phase, 1 / (1 + (f / freq_hz)^4) or 1 minus that, of a sound that is known
  // ahead: a pair of complex poles runs forward and, over what lies ahead, backward.
  class Band {
    constructor(freq_hz, isHigh, rate_hz, size) {
      const angle = (Math.SQRT2 * Math.PI * freq_hz) / rate_hz;
      const decay = Math.exp(-angle);
      Object.assign(this, {
        isHigh,
        size,
        re: decay * Math.cos(angle),
        im: decay * Math.sin(angle),
      });
      // Of both directions together: 1 at the lowest frequencies.
      const { re, im } = this;
      this.gain = 1 / ((2 * (1 - re + im)) / ((1 - re) ** 2 + im ** 2) - 1);
      this.ahead = Math.ceil((BAND_DB / 20) * (Math.LN10 / angle));
      this.states = [0, 1].map(() => new Float64Array(2));
    }

    // Add what it lets through of the first samples.
    add(audio, channel, output) {
      const { re, im, gain, size, isHigh } = this;
      const sign = isHigh ? -1 : 1;
      const state = this.states[channel];
      let x = 0;
      let y = 0;
      for (let t = size + this.ahead - 1; t > 0; t--) {
        const sum = audio[t] + x;
        x = re * sum - im * y;
        y = im * sum + re * y;
        if (t <= size) output[t - 1] += sign * gain * (x + y);
      }
      x = state[0];
      y = state[1];
      for (let t = 0; t < size; t++) {
        const last = x;
        x = audio[t] + re * last - im * y;
        y = im * last + re * y;
        output[t] += sign * gain * (x + y) + (isHigh ? audio[t] : 0);
      }
      state.set([x, y].map((value) => (Math.abs(value) < QUIET ? 0 : value)));
    }
  }

  // Room of a track.
  class Room {
    constructor({ room, block_samples }, rate_hz) {
      Object.assign(this, { size: block_samples, rate_hz, room, rest: 0, send: 0 });
      this.network = new Network(room, block_samples);
      this.sent = new Float64Array(room.damping.length - 1 + block_samples);
      this.wet = [0, 1].map(() => new Float64Array(block_samples));
      this.damped = new Float64Array(block_samples);
      this.bands = null;
    }

    set(values, off_db) {
      const time_s = values["room.time_s"];
      const capped = (ratio) => Math.min(ratio * time_s, this.room.max_time_s);
      const ratios = [values["room.low_ratio"], values["room.high_ratio"]];
      this.network.setTime(capped(1), this.rate_hz);
      this.longest = Math.ceil(capped(Math.max(1, ...ratios)) * this.room.rendered * this.rate_hz);
      this.nextSend = values["room.send_db"] > off_db ? factorOf(values["room.send_db"]) : 0;
      if (ratios.every((ratio) => ratio === 1)) this.bands = null;
      else if (!this.bands) this.openBands();
      this.bands?.forEach(({ network }, i) => network.setTime(capped(ratios[i]), this.rate_hz));
    }

    // Bands begin with what sounds in the room.
    openBands() {
      const shortest = Math.min(...this.room.delays) - this.size;
      this.bands = [this.room.low_hz, this.room.high_hz].map((freq_hz, i) => {
        const filter = new Band(freq_hz, i === 1, this.rate_hz, this.size);
        filter.ahead = Math.min(filter.ahead, shortest);
        const network = new Network(this.room, this.size);
        network.copy(this.network);
        const count = this.size + filter.ahead;
        const others = [0, 1].map(() => new Float64Array(count));
        const difference = [0, 1].map(() => new Float64Array(count));
        return { filter, network, others, difference, isNew: true };
      });
    }

    // Give what the room answers to a block, or null while it is silent.
    run([left, right]) {
      const { size, sent, room } = this;
      const [before, after] = [this.send, this.nextSend];
      this.send = after;
      if (before || after) this.rest = this.longest;
      else if (this.rest <= 0) return null;
      this.rest -= size;
      sent.copyWithin(0, size);
      const held = sent.length - size;
      for (let t = 0; t < size; t++)
        sent[held + t] = ((before + ((after - before) * t) / size) * (left[t] + right[t])) / 2;
      this.damped.fill(0);
      room.damping.forEach((tap, delay) => {
        for (let t = 0; t < size; t++) this.damped[t] += tap * sent[held + t - delay];
      });
      this.network.read(this.wet, 0, 0, size);
      this.bands?.forEach((band) => this.addBand(band));
      this.network.write(this.damped);
      this.bands?.forEach((band) => band.network.write(this.damped));
      return this.wet;
    }

    // A band dies away in a time of its own: add by what it differs.
    addBand(band) {
      const { filter, network, others, difference } = band;
      const ahead = band.isNew ? 0 : filter.ahead;
      const count = band.isNew ? this.size + filter.ahead : this.size;
      band.isNew = false;
      difference.forEach((channel) => channel.copyWithin(0, this.size));
      network.read(difference, ahead, ahead, count);
      this.network.read(others, ahead, ahead, count);
      difference.forEach((channel, c) => {
        for (let t = ahead; t < channel.length; t++) channel[t] -= others[c][t];
        filter.add(channel, c, this.wet[c]);
      });
    }
  }

  // A track on the console.
  class Strip {
    constructor(desk, track, values) {
      const { fields, algorithm, rate_hz } = desk;
      const size = algorithm.block_samples;
      this.track = track;
      this.off_db = fields.find((field) => field.name === "room.send_db").neutral;
      this.roomComesLast = desk.roomsComeLast;
      this.moving = new Moving(fields, values, desk.share);
      this.equaliser = new Equaliser(bandsOf(fields), 2, this.moving.values, algorithm, rate_hz);
      this.drives = [0, 1].map(() => new Drive(algorithm));
      this.compressor = new Compressor(algorithm, rate_hz);
      this.room = new Room(algorithm, rate_hz);
      this.audio = [0, 1].map(() => new Float64Array(size));
      this.hearing = 1; // how much of it is heard: solo and mute
      this.nextHearing = 1;
      this.peaks = new Float64Array(2);
      this.set();
      this.rest();
    }

    // Take the values as they are now; what is a factor goes there in the course of a block.
    set() {
      const { values } = this.moving;
      this.equaliser.set(values);
      this.room.set(values, this.off_db);
      const fader = factorOf(values.fader_db);
      const left = fader * Math.min(1, 1 - values.pan);
      const right = fader * Math.min(1, 1 + values.pan);
      const [own, other] = [(1 + values.width) / 2, (1 - values.width) / 2];
      this.next = {
        trim: factorOf(values.trim_db),
        mix: values["drive.mix"],
        matrix: [left * own, left * other, right * other, right * own],
      };
    }

    rest() {
      this.now = this.next;
      this.room.send = this.room.nextSend;
      this.equaliser.sections.forEach((section) => section.now.set(section.next));
    }

    step(tape, sums) {
      if (this.moving.step()) this.set();
      const { audio, now, next } = this;
      const { values } = this.moving;
      tape.read(this.track, audio, now.trim, next.trim);
      this.equaliser.run(audio);
      this.drives.forEach((drive, c) =>
        drive.run(audio[c], values["drive.drive_db"], now.mix, next.mix)
      );
      const curve = this.compressor.run(audio, values);
      for (const channel of audio) for (let t = 0; t < channel.length; t++) channel[t] *= curve[t];
      if (!this.roomComesLast) this.addRoom();
      this.place(now.matrix, next.matrix);
      if (this.roomComesLast) this.addRoom();
      this.now = next;
      this.addTo(sums);
    }

    addRoom() {
      const wet = this.room.run(this.audio);
      wet?.forEach((channel, c) => {
        for (let t = 0; t < channel.length; t++) this.audio[c][t] += channel[t];
      });
    }

    // Width, pan and fader.
    place(before, after) {
      const [left, right] = this.audio;
      const [a, b, c, d] = before;
      const steps = after.map((value, i) => (value - before[i]) / left.length);
      for (let t = 0; t < left.length; t++) {
        const [l, r] = [left[t], right[t]];
        left[t] = (a + steps[0] * t) * l + (b + steps[1] * t) * r;
        right[t] = (c + steps[2] * t) * l + (d + steps[3] * t) * r;
      }
    }

    // The compressor of the master follows all tracks, also those that are not heard just now.
    addTo({ all, heard }) {
      const { hearing, nextHearing } = this;
      this.audio.forEach((channel, c) => {
        let peak = this.peaks[c];
        const step = (nextHearing - hearing) / channel.length;
        for (let t = 0; t < channel.length; t++) {
          all[c][t] += channel[t];
          heard[c][t] += (hearing + step * t) * channel[t];
          peak = Math.max(peak, Math.abs(channel[t]));
        }
        this.peaks[c] = peak;
      });
      this.hearing = nextHearing;
    }
  }

  // The tracks, read in blocks from a position on that may jump, without a click.
  class Tape {
    constructor(tracks, size) {
      Object.assign(this, { size, at: 0, before: null, loop: null });
      this.length = Math.max(...tracks.map(({ channels }) => channels[0].length));
    }

    jump(sample) {
      const block = Math.floor(sample / this.size);
      const next = this.size * Math.max(0, Math.min(block, Math.floor(this.length / this.size)));
      if (next === this.at) return;
      this.before ??= this.at;
      this.at = next;
    }

    read({ channels, level }, audio, before, after) {
      const { size } = this;
      audio.forEach((output, c) => {
        const input = channels[c % channels.length];
        for (let t = 0; t < size; t++) {
          let value = input[this.at + t] ?? 0;
          if (this.before !== null) {
            const last = input[this.before + t] ?? 0;
            value = last + ((value - last) * (t + 1)) / size;
          }
          output[t] = level * (before + ((after - before) * t) / size) * value;
        }
      });
    }

    next() {
      this.before = null;
      this.at += this.size;
      if (!this.loop || this.at < this.loop[1]) return;
      this.before = this.at;
      this.at = this.loop[0];
    }
  }

  // All tracks and the master. Each step gives the next block; the tape runs a block ahead of it.
  class Engine {
    constructor({ algorithm, fields, masterFields, tracks, rate_hz }, settings) {
      const size = algorithm.block_samples;
      this.share = 1 - Math.exp(-size / (SMOOTHING_S * rate_hz));
      Object.assign(this, { algorithm, fields, rate_hz, size });
      this.roomsComeLast = settings.rooms === "sends";
      this.tape = new Tape(tracks, size);
      this.strips = tracks.map((track, i) => new Strip(this, track, settings.tracks[i]));
      this.master = new Moving(masterFields, settings.master, this.share);
      const { values } = this.master;
      this.equaliser = new Equaliser(bandsOf(masterFields), 4, values, algorithm, rate_hz);
      this.compressor = new Compressor(algorithm, rate_hz);
      this.output = factorOf(values.output_db);
      const stereo = () => [0, 1].map(() => new Float64Array(size));
      this.sums = { all: stereo(), heard: stereo() };
      this.prime();
    }

    // Let the tape run ahead by the block that it is ahead.
    prime() {
      this.step();
      this.peaks = new Float64Array(2);
      for (const strip of this.strips) strip.peaks.fill(0);
    }

    set(settings) {
      this.strips.forEach((strip, i) => strip.moving.aim(settings.tracks[i]));
      this.master.aim(settings.master);
    }

    // Let only some tracks be heard.
    hear(areHeard) {
      this.strips.forEach((strip, i) => (strip.nextHearing = areHeard[i] ? 1 : 0));
    }

    step() {
      const { all, heard } = this.sums;
      const { values } = this.master;
      for (const channel of [...all, ...heard]) channel.fill(0);
      for (const strip of this.strips) strip.step(this.tape, this.sums);
      if (this.master.step()) this.equaliser.set(values);
      this.equaliser.run([...all, ...heard]);
      const curve = this.compressor.run(all, values);
      const next = factorOf(values.output_db);
      const step = (next - this.output) / this.size;
      heard.forEach((channel, c) => {
        for (let t = 0; t < channel.length; t++) {
          channel[t] *= (this.output + step * t) * curve[t];
          if (this.peaks) this.peaks[c] = Math.max(this.peaks[c], Math.abs(channel[t]));
        }
      });
      this.output = next;
      this.tape.next();
      return heard;
    }

    // Peaks since the last reading as they left the faders, and gains of the compressors in dB.
    readMeters() {
      const gain_db = ({ gain }) => 20 * Math.log10(gain);
      const meters = this.strips.map(({ peaks, compressor }) => [...peaks, gain_db(compressor)]);
      meters.push([...this.peaks, gain_db(this.compressor)]);
      for (const peaks of [this.peaks, ...this.strips.map((strip) => strip.peaks)]) peaks.fill(0);
      return meters;
    }
  }

  // Integrated loudness in LUFS (ITU-R BS.1770-4) of a stereo sound, and its peak.
  function measure(channels, { filters, hop_s, silence_lufs }, rate_hz) {
    const hop = Math.round(hop_s * rate_hz);
    const energies = new Float64Array(Math.floor(channels[0].length / hop));
    let peak = 0;
    for (const channel of channels) {
      const states = filters.map(() => [0, 0]);
      for (let t = 0; t < energies.length * hop; t++) {
        let x = channel[t];
        peak = Math.max(peak, Math.abs(x));
        filters.forEach(([b0, b1, b2, a1, a2], i) => {
          const state = states[i];
          const y = b0 * x + state[0];
          state[0] = b1 * x - a1 * y + state[1];
          state[1] = b2 * x - a2 * y;
          x = y;
        });
        energies[Math.floor(t / hop)] += (x * x) / hop;
      }
    }
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / (values.length || 1);
    const level = (energy) => CHANNEL_SUM_OFFSET_LU + 10 * Math.log10(Math.max(energy, 1e-12));
    const blocks = [...energies.slice(3)].map((_, i) => mean(energies.slice(i, i + 4)));
    const loud = blocks.filter((energy) => level(energy) > silence_lufs);
    const gate = level(mean(loud)) + GATE_LU;
    const loudness_lufs = level(mean(loud.filter((energy) => level(energy) > gate)));
    return { loudness_lufs: Math.max(loudness_lufs, silence_lufs), peak };
  }

  return {
    Engine,
    measure,
    above_db,
    bandsOf,
    byNames,
    design,
    factorOf,
    offScale,
    onScale,
    response_db,
  };
})();
