// The planes of one case, its overlays, window and level.
const NARROWEST = 660; // CSS pixels of the three planes, so that their sliders can be moved
const FOUND = 1, MISSED = 2, INVENTED = 3;
const TYPING = "input:not([type=checkbox], [type=range]), select, textarea"; // where a letter is no command
const rgba = (red, green, blue, opacity) => ((opacity << 24) | (blue << 16) | (green << 8) | red) >>> 0; // little-endian

class Viewer {
  constructor(root) {
    Object.assign(this, JSON.parse(root.querySelector("script").textContent), { root, planes: [] });
    root.dataset.begun = "";
    this.part = (name) => root.querySelector(`.${name}`);
    for (const name of ["truth", "prediction", "opacity", "level", "width"]) this.part(name).addEventListener("input", () => this.read());
    this.part("reset").addEventListener("click", () => this.reset());
    this.part("case").addEventListener("change", () => this.open());
    document.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.part("planes"));
    this.open();
  }

  async open() {
    const chosen = () => this.volumes[this.part("case").selectedIndex], packed = chosen();
    this.say("unpacking …");
    try {
      const voxels = await inflated(packed.data);
      if (packed === chosen()) this.show(new Volume(packed, voxels)); // else another one was chosen meanwhile
    } catch (error) {
      this.say(`This browser cannot unpack the volume (${error.message}); it needs DecompressionStream.`);
    }
  }

  show(volume) {
    const planes = (volume.affine ? PATIENT : PAGES).map((kind) => new Plane(this, kind, volume));
    const widths = planes.map((plane) => plane.extent[0]), box = this.part("planes");
    Object.assign(this, { volume, planes, position: volume.fullest() });
    box.style.setProperty("--columns", widths.map((width) => `minmax(0, ${width}fr)`).join(" "));
    const scale = TALLEST / Math.max(...planes.map((plane) => plane.extent[1]));
    box.style.maxWidth = `${Math.max(Math.round(widths.reduce((a, b) => a + b) * scale + 24), NARROWEST)}px`;
    box.replaceChildren(...planes.map((plane) => plane.box));
    this.say(volume.changes && `Made smaller for this page: ${volume.changes}.`);
    this.reset();
    this.root.dataset.shown = volume.case;
  }

  say(words) {
    Object.assign(this.part("state"), { textContent: words, hidden: !words });
  }

  move(axis, index) {
    this.position[axis] = clamp(index, 0, this.volume.shape[axis] - 1);
    this.draw();
  }

  press({ key, target, ctrlKey, metaKey, altKey }) {
    const pressed = { t: "truth", p: "prediction", r: "reset" }[key];
    if (pressed && !(ctrlKey || metaKey || altKey || target.matches(TYPING))) this.part(pressed).click();
  }

  reset() {
    [this.part("level").value, this.part("width").value] = [128, 255];
    this.read();
  }

  changeWindow(wider, brighter) {
    this.part("width").value = this.width + wider;
    this.part("level").value = this.level + brighter;
    this.read();
  }

  read() {
    for (const name of ["opacity", "level", "width"]) this[name] = Number(this.part(name).value);
    for (const name of ["truth", "prediction"]) this[name] = this.part(name).checked;
    this.isBoth = this.truth && this.prediction;
    const names = this.isBoth ? ["found", "missed", "invented, or another class"] : this.classes.slice(1);
    this.part("legend").replaceChildren(...(this.truth || this.prediction ? names : []).map((name, n) => {
      const spot = element("i");
      spot.style.background = `rgb(${this.colour(n + 1)})`;
      return element("span", {}, spot, name);
    }));
    this.draw();
  }

  // What a voxel is drawn as: with both overlays where they differ, with one its class, 0 for nothing.
  kind(truth, prediction) {
    if (!this.isBoth) return this.truth ? truth : this.prediction ? prediction : 0;
    return truth === prediction ? (truth ? FOUND : 0) : prediction ? INVENTED : MISSED;
  }

  colour(kind) {
    return this.isBoth ? this.differences[kind - 1] : this.colours[(kind - 1) % this.colours.length];
  }

  covers() {
    return Uint32Array.from({ length: 256 }, (_, kind) => kind && rgba(...(this.colour(kind) ?? []), 255 * this.opacity));
  }

  // Black at the window's lower end and white at its upper one, for each of the 256 values of an image.
  shades() {
    return Uint32Array.from({ length: 256 }, (_, value) => {
      const grey = clamp(Math.round(((value - this.level) / this.width + 0.5) * 255), 0, 255);
      return rgba(grey, grey, grey, 255);
    });
  }

  draw() {
    if (!this.planes.length) return;
    for (const plane of this.planes) plane.draw();
    const [low, high] = this.volume.window, unit = (high - low) / 255, digits = (number) => Number(number.toPrecision(4));
    const told = `window ${digits(this.width * unit)}, level ${digits(low + this.level * unit)}`;
    this.part("readout").textContent = [...this.volume.told(this.position, this.classes), told].join("  ·  ");
  }
}

for (const root of document.querySelectorAll(".viewer:not([data-begun])")) new Viewer(root);
