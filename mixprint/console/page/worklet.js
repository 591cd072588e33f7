// The audio thread: plays the tracks through the engine of sound.js, which stands before this.
"use strict";

const METERS_S = 0.03;
const FADE_BLOCKS = 6; // of the beginning and the end of playing

class ConsoleProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    const { desk, settings, areHeard, isPlaying } = processorOptions;
    this.engine = new ConsoleSound.Engine(desk, settings);
    this.engine.hear(areHeard);
    this.isPlaying = isPlaying;
    this.loudness = isPlaying ? 1 : 0; // 0 at rest
    this.block = null;
    this.done = 0; // samples of the block
    this.waited = 0; // blocks since the last meters
    this.focus = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take({ settings, areHeard, isPlaying, seek, loop, focus }) {
    const { engine } = this;
    if (settings) engine.set(settings);
    if (areHeard) engine.hear(areHeard);
    if (isPlaying !== undefined) this.isPlaying = isPlaying;
    if (loop !== undefined) engine.tape.loop = loop && loop.map((at) => at - (at % engine.size));
    if (seek !== undefined) engine.tape.jump(seek);
    if (focus !== undefined) this.focus = focus;
  }

  process(_inputs, [[left, right], [focus]]) {
    const { engine } = this;
    for (let t = 0; t < left.length; t++) {
      if (!this.block || this.done === engine.size) {
        if (!this.isPlaying && this.loudness === 0) return true;
        this.block = engine.step();
        this.done = 0;
        this.fadeFrom = this.loudness;
        const goal = this.isPlaying ? 1 : 0;
        const step = Math.sign(goal - this.loudness) / FADE_BLOCKS;
        this.loudness = Math.min(1, Math.max(0, this.loudness + step));
        if (Math.abs(goal - this.loudness) < 1e-9) this.loudness = goal;
        this.tell();
      }
      const share = this.done / engine.size;
      const gain = this.fadeFrom + (this.loudness - this.fadeFrom) * share;
      left[t] = gain * this.block[0][this.done];
      right[t] = gain * this.block[1][this.done];
      if (focus) {
        const [a, b] = engine.strips[this.focus]?.audio ?? this.block;
        focus[t] = (a[this.done] + b[this.done]) / 2;
      }
      this.done++;
    }
    return true;
  }

  tell() {
    const { tape } = this.engine;
    const position = tape.at - tape.size; // the tape is ahead
    const hasEnded = !tape.loop && position >= tape.length;
    if (hasEnded) this.isPlaying = false;
    if (++this.waited * tape.size < METERS_S * sampleRate && this.isPlaying) return;
    this.waited = 0;
    const meters = this.engine.readMeters();
    this.port.postMessage({ position, meters, hasEnded });
  }
}

registerProcessor("mixprint-console", ConsoleProcessor);
