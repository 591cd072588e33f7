// Plays the tracks of a page through the console, live or as fast as it can.
"use strict";

class ConsolePlayer {
  // data: what the page holds; source: text of the worklet.
  constructor(data, source) {
    this.data = data;
    this.source = source;
    this.context = null;
    this.isPlaying = false;
    this.position = 0; // in samples
    this.listener = () => {};
    this.state = null;
  }

  get duration_s() {
    return this.data.num_samples / this.data.rate_hz;
  }

  // The tracks as they were: FLAC is exact, and a context of their own rate leaves them alone.
  async decode() {
    const { rate_hz, tracks } = this.data;
    this.decoding ??= Promise.all(
      tracks.map(async ({ audio, level }) => {
        const bytes = Uint8Array.from(atob(audio), (letter) => letter.charCodeAt(0));
        const buffer = await new OfflineAudioContext(1, 1, rate_hz).decodeAudioData(bytes.buffer);
        const numbers = [...Array(buffer.numberOfChannels).keys()];
        return { level, channels: numbers.map((c) => buffer.getChannelData(c)) };
      })
    );
    return this.decoding;
  }

  async makeNode(context, state) {
    // A page from a file has no origin, and Chromium does not let it load a blob as a module.
    await context.audioWorklet.addModule(
      `data:text/javascript;charset=utf-8,${encodeURIComponent(this.source)}`
    );
    const { algorithm, fields, master_fields, rate_hz } = this.data;
    const desk = { algorithm, fields, masterFields: master_fields, rate_hz };
    desk.tracks = await this.decode();
    return new AudioWorkletNode(context, "mixprint-console", {
      numberOfInputs: 0,
      numberOfOutputs: 2,
      outputChannelCount: [2, 1],
      processorOptions: { desk, ...state },
    });
  }

  // What settings make of all the audio, an AudioBuffer.
  async rendered(settings) {
    const { num_samples, rate_hz, tracks } = this.data;
    const context = new OfflineAudioContext(2, num_samples, rate_hz);
    const areHeard = tracks.map(() => true);
    const node = await this.makeNode(context, { settings, areHeard, isPlaying: true });
    node.connect(context.destination);
    return context.startRendering();
  }

  // A browser gives an audio context its voice only after a gesture, so it is made on demand.
  async open() {
    this.opening ??= (async () => {
      this.context = new AudioContext({
        sampleRate: this.data.rate_hz,
        latencyHint: "interactive",
      });
      this.gain = this.context.createGain();
      this.spectrum = this.context.createAnalyser();
      this.spectrum.fftSize = 4096;
      this.node = await this.makeNode(this.context, { ...this.state, isPlaying: false });
      this.node.connect(this.gain).connect(this.context.destination);
      this.node.connect(this.spectrum, 1);
      this.node.port.onmessage = ({ data }) => {
        this.position = data.position;
        if (data.hasEnded) this.isPlaying = false;
        this.listener(data);
      };
      this.send({ ...this.state, seek: this.position });
    })();
    await this.opening;
    await this.context.resume();
  }

  // Tell the audio thread, or keep for when there is one.
  send(message) {
    const { seek, isPlaying, ...state } = message;
    this.state = { ...this.state, ...state };
    if (seek !== undefined) this.position = seek;
    this.node?.port.postMessage(message);
  }

  async play() {
    await this.open();
    this.isPlaying = true;
    this.send({ isPlaying: true });
  }

  pause() {
    this.isPlaying = false;
    this.send({ isPlaying: false });
  }

  setLevel(factor) {
    if (this.gain) this.gain.gain.setTargetAtTime(factor, this.context.currentTime, 0.01);
  }
}
