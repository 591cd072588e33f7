// Plays clips in step and lets one of them be heard; a switch keeps the position.
//
// All clips run all the time, each in a loop of its own, with a gain that is zero for all but one.
// Clips of equal length so stay in step to the sample. A clip of another length keeps it.
"use strict";

const FADE_S = 0.01;

class SyncPlayer {
  constructor() {
    this.context = null;
    this.clips = {}; // name -> {buffer, gain}
    this.sources = {}; // name -> {source, gain}
    this.heard = "";
    this.playing = false;
    this.position_s = 0; // where the play began, or stands
    this.begun_s = 0; // the context's time then
    this.region = [0, Infinity];
    this.duration_s = 0; // of the first clip, which the position refers to
    this.decoded = new Map(); // text of the audio -> buffer
  }

  // A browser gives an audio context its voice only after a gesture, so it is made on demand.
  open() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: 44100 });
      this.output = this.context.createGain();
      this.output.connect(this.context.destination);
    }
    return this.context;
  }

  async decode(base64) {
    if (!this.decoded.has(base64)) {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      this.decoded.set(base64, await this.open().decodeAudioData(bytes.buffer));
    }
    return this.decoded.get(base64);
  }

  // clips: name -> {audio: base64, gain}. Position, choice and play go on.
  async load(clips) {
    const names = Object.keys(clips);
    const buffers = await Promise.all(names.map((name) => this.decode(clips[name].audio)));
    const now_s = this.position();
    this.stop();
    this.clips = Object.fromEntries(
      names.map((name, i) => [name, { buffer: buffers[i], gain: clips[name].gain }])
    );
    this.duration_s = buffers[0].duration;
    if (!(this.heard in this.clips)) this.heard = names[0];
    this.position_s = now_s;
    if (this.playing) this.start();
  }

  forget() {
    this.decoded.clear();
  }

  // The loop of a clip: the region, as far as the clip has it.
  loop(buffer) {
    const [begin, end] = this.region;
    const last = Math.min(end, buffer.duration);
    return last - begin > FADE_S ? [begin, last] : [0, buffer.duration];
  }

  wrap(time_s, [begin, end]) {
    if (time_s < end && time_s >= begin) return time_s;
    const length = end - begin;
    return begin + ((((time_s - begin) % length) + length) % length);
  }

  start() {
    const context = this.open();
    const at_s = context.currentTime + 0.02;
    for (const [name, clip] of Object.entries(this.clips)) {
      const source = context.createBufferSource();
      const gain = context.createGain();
      const [begin, end] = this.loop(clip.buffer);
      source.buffer = clip.buffer;
      source.loop = true;
      source.loopStart = begin;
      source.loopEnd = end;
      gain.gain.value = name === this.heard ? clip.gain : 0;
      source.connect(gain).connect(this.output);
      source.start(at_s, this.wrap(this.position_s, [begin, end]));
      this.sources[name] = { source, gain };
    }
    this.begun_s = at_s;
  }

  stop() {
    for (const { source, gain } of Object.values(this.sources)) {
      source.stop();
      gain.disconnect();
    }
    this.sources = {};
  }

  async play() {
    await this.open().resume();
    if (!this.playing && this.duration_s) {
      this.playing = true;
      this.start();
    }
  }

  pause() {
    if (!this.playing) return;
    this.position_s = this.position();
    this.playing = false;
    this.stop();
  }

  position() {
    if (!this.playing || !this.duration_s) return this.position_s;
    const passed_s = Math.max(0, this.context.currentTime - this.begun_s);
    return this.wrap(this.position_s + passed_s, this.loop({ duration: this.duration_s }));
  }

  seek(time_s) {
    this.position_s = time_s;
    if (this.playing) {
      this.stop();
      this.start();
    }
  }

  setRegion(begin_s, end_s) {
    const now_s = this.position();
    this.region = [begin_s, end_s];
    this.seek(this.wrap(now_s, this.loop({ duration: this.duration_s })));
  }

  choose(name) {
    this.heard = name;
    this.applyGains();
  }

  setGains(gains) {
    for (const [name, gain] of Object.entries(gains)) this.clips[name].gain = gain;
    this.applyGains();
  }

  applyGains() {
    for (const [name, { gain }] of Object.entries(this.sources)) {
      const value = name === this.heard ? this.clips[name].gain : 0;
      const now_s = this.context.currentTime;
      gain.gain.cancelScheduledValues(now_s);
      gain.gain.setValueAtTime(gain.gain.value, now_s);
      gain.gain.linearRampToValueAtTime(value, now_s + FADE_S);
    }
  }
}
